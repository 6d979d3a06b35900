// Runs in the thread of the sound: turns samples into int16 frames of 60 ms, and posts each with its loudest sample.

const FRAME_S = 0.06;

class Capture extends AudioWorkletProcessor {
  #frame = new Int16Array(Math.round(FRAME_S * sampleRate));
  #length = 0;
  #peak = 0;
  #isEnded = false;

  constructor() {
    super();
    this.port.onmessage = () => { // the end: what is left, and a mark behind it
      this.#post();
      this.port.postMessage(null);
      this.#isEnded = true;
    };
  }

  process([[samples]]) {
    for (const sample of samples ?? []) {
      const clipped = Math.min(Math.max(sample, -1), 1);
      this.#frame[this.#length++] = Math.round(clipped * 32767);
      this.#peak = Math.max(this.#peak, Math.abs(clipped));
      if (this.#length === this.#frame.length) this.#post();
    }
    return !this.#isEnded;
  }

  #post() {
    this.port.postMessage({ samples: this.#frame.slice(0, this.#length), peak: this.#peak });
    [this.#length, this.#peak] = [0, 0];
  }
}

registerProcessor("capture", Capture);
