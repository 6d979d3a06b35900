// Records the microphone and draws its level.
import { Level } from "./level.js";
import { closeMicrophone, mayHaveMicrophone, openMicrophone } from "./microphone.js";

const INTERVAL_MS = 60;

export class Recorder {
  static isPossible = Boolean(mayHaveMicrophone && window.MediaRecorder);
  #recorder = null;
  #stream = null;
  #context = null;
  #timer = 0;
  #chunks = [];

  constructor(canvas, onTime) {
    [this.level, this.onTime] = [new Level(canvas), onTime];
  }

  get isRecording() {
    return this.#recorder !== null;
  }

  async start() {
    this.#stream = await openMicrophone();
    this.#chunks = [];
    this.#recorder = new MediaRecorder(this.#stream);
    this.#recorder.ondataavailable = (event) => this.#chunks.push(event.data);
    this.#recorder.start(1000);
    this.#watch(performance.now());
  }

  // Return the recording as a file.
  async stop() {
    const recorder = this.#recorder;
    await new Promise((resolve) => { recorder.onstop = resolve; recorder.stop(); });
    clearInterval(this.#timer);
    closeMicrophone(this.#stream);
    this.#context.close();
    this.#recorder = null;
    const kind = recorder.mimeType.match(/^audio\/(\w+)/)?.[1] ?? "webm";
    return new File(this.#chunks, `recording.${kind}`, { type: recorder.mimeType });
  }

  #watch(start) {
    this.#context = new AudioContext();
    const analyser = this.#context.createAnalyser();
    this.#context.createMediaStreamSource(this.#stream).connect(analyser);
    const wave = new Float32Array(analyser.fftSize);
    this.level.clear();
    this.#timer = setInterval(() => {
      analyser.getFloatTimeDomainData(wave);
      this.level.add(Math.max(...wave.map(Math.abs)));
      this.onTime((performance.now() - start) / 1000);
    }, INTERVAL_MS);
    this.onTime(0);
  }
}
