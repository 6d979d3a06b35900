// Plays a decoded sound from any point. (A recording of MediaRecorder has no length and no index, so that an audio
// element could not seek in it.)

const RATE_HZ = 24000;

export class Player {
  #context = null;
  #buffer = null;
  #source = null;
  #offset = 0;  // where the sound stands while it does not play
  #started = 0; // time of the context when it began to play

  constructor(onTime) {
    this.onTime = onTime;
  }

  async load(file) {
    try {
      const decoder = new OfflineAudioContext(1, 1, RATE_HZ);
      this.#buffer = await decoder.decodeAudioData(await file.arrayBuffer());
    } catch {
      this.#buffer = null;
    }
    this.#offset = 0;
    return this.#buffer;
  }

  get isPlaying() {
    return this.#source !== null;
  }

  get time() {
    if (!this.isPlaying) return this.#offset;
    return Math.min(this.#offset + this.#context.currentTime - this.#started, this.#buffer.duration);
  }

  toggle() {
    this.isPlaying ? this.pause() : this.play();
  }

  play() {
    if (!this.#buffer || this.isPlaying) return;
    this.#context ??= new AudioContext();
    this.#context.resume();
    if (this.#offset >= this.#buffer.duration - 0.01) this.#offset = 0;
    const source = this.#source = this.#context.createBufferSource();
    source.buffer = this.#buffer;
    source.connect(this.#context.destination);
    source.onended = () => { if (this.#source === source) this.stop(); };
    source.start(0, this.#offset);
    this.#started = this.#context.currentTime;
    this.#follow();
  }

  pause() {
    this.#halt(this.time);
  }

  stop() {
    this.#halt(0);
  }

  seek(time) {
    const wasPlaying = this.isPlaying;
    this.#halt(time);
    if (wasPlaying) this.play();
  }

  #halt(offset) {
    const source = this.#source;
    this.#source = null;
    source?.stop();
    this.#offset = offset;
    this.onTime(offset, false);
  }

  #follow() {
    if (!this.isPlaying) return;
    this.onTime(this.time, true);
    requestAnimationFrame(() => this.#follow());
  }
}
