// Records the microphone and draws its level.
import { sharpen } from "./waveform.js";

const BAR = 3;
const GAP = 3;
const INTERVAL_MS = 60;

export class Recorder {
  static isPossible = Boolean(navigator.mediaDevices?.getUserMedia && window.MediaRecorder);
  #recorder = null;
  #stream = null;
  #context = null;
  #timer = 0;
  #chunks = [];
  #levels = [];

  constructor(canvas, onTime) {
    [this.canvas, this.onTime] = [canvas, onTime];
  }

  get isRecording() {
    return this.#recorder !== null;
  }

  async start() {
    this.#stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    [this.#chunks, this.#levels] = [[], []];
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
    this.#stream.getTracks().forEach((track) => track.stop());
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
    this.#timer = setInterval(() => {
      analyser.getFloatTimeDomainData(wave);
      this.#levels.push(Math.max(...wave.map(Math.abs)));
      this.onTime((performance.now() - start) / 1000);
      this.#draw();
    }, INTERVAL_MS);
    this.onTime(0);
  }

  // The latest level is at the right edge.
  #draw() {
    const [context, width, height] = sharpen(this.canvas);
    const style = getComputedStyle(this.canvas);
    const number = Math.floor(width / (BAR + GAP));
    const levels = this.#levels.slice(-number);
    for (let bar = 0; bar < number; bar++) {
      const level = levels[levels.length - number + bar] ?? 0;
      const size = Math.max(BAR, Math.sqrt(level) * (height - 4));
      context.fillStyle = style.getPropertyValue(level ? "--accent" : "--line");
      context.beginPath();
      context.roundRect(bar * (BAR + GAP), (height - size) / 2, BAR, size, BAR / 2);
      context.fill();
    }
  }
}
