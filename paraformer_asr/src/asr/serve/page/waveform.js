// A sound as bars on a canvas; a slider for mouse, finger and keyboard.
import { clock } from "./text.js";

const BAR = 2;
const GAP = 2;

export class Waveform {
  #samples = null;
  #duration = 0;
  #time = 0;
  #peaks = [];

  constructor(canvas, onSeek) {
    this.canvas = canvas;
    new ResizeObserver(() => this.#measure()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#draw());
    canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); this.#point(event, onSeek); });
    canvas.addEventListener("pointermove", (event) => { if (event.buttons) this.#point(event, onSeek); });
    canvas.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowDown: -1, ArrowUp: 1, PageDown: -10, PageUp: 10, Home: -Infinity, End: Infinity };
      if (!(event.key in steps)) return;
      event.preventDefault();
      onSeek(Math.min(Math.max(this.#time + steps[event.key], 0), this.#duration));
    });
  }

  show(samples, duration) {
    [this.#samples, this.#duration, this.#time] = [samples, duration, 0];
    this.canvas.setAttribute("aria-valuemax", duration.toFixed(1));
    this.#measure();
    this.move(0);
  }

  move(time) {
    this.#time = time;
    this.canvas.setAttribute("aria-valuenow", time.toFixed(1));
    this.canvas.setAttribute("aria-valuetext", `${clock(time)} of ${clock(this.#duration)}`);
    this.#draw();
  }

  #point(event, onSeek) {
    const box = this.canvas.getBoundingClientRect();
    onSeek((event.clientX - box.left) / box.width * this.#duration);
  }

  // The loudest sample of each bar.
  #measure() {
    const number = Math.floor((this.canvas.clientWidth + GAP) / (BAR + GAP));
    const samples = this.#samples ?? [];
    this.#peaks = Array.from({ length: Math.max(number, 0) }, (_, bar) => {
      const [start, stop] = [bar, bar + 1].map((edge) => Math.floor(edge * samples.length / number));
      const step = Math.max(1, Math.floor((stop - start) / 500));
      let peak = 0;
      for (let place = start; place < stop; place += step) peak = Math.max(peak, Math.abs(samples[place]));
      return peak;
    });
    this.#draw();
  }

  #draw() {
    const [context, width, height] = sharpen(this.canvas);
    const style = getComputedStyle(this.canvas);
    const [ahead, behind] = ["--wave", "--accent"].map((name) => style.getPropertyValue(name));
    const loudest = Math.max(...this.#peaks, 0.05);
    const reached = this.#duration ? this.#time / this.#duration * width : 0;
    this.#peaks.forEach((peak, bar) => {
      const x = bar * (BAR + GAP);
      const size = Math.max(2, Math.sqrt(peak / loudest) * (height - 4));
      context.fillStyle = x < reached ? behind : ahead;
      context.beginPath();
      context.roundRect(x, (height - size) / 2, BAR, size, BAR / 2);
      context.fill();
    });
  }
}

// Clear a canvas in the resolution of the screen; return its context, width and height.
export function sharpen(canvas) {
  const [width, height, ratio] = [canvas.clientWidth, canvas.clientHeight, devicePixelRatio];
  [canvas.width, canvas.height] = [width * ratio, height * ratio];
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  return [context, width, height];
}
