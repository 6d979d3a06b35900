// The part of the page with text that appears while somebody speaks.
import { Level } from "./level.js";
import { Live } from "./live.js";
import { LiveText } from "./live_text.js";
import { clock } from "./text.js";

const $ = (id) => document.getElementById(id);

export class LivePart {
  #mode = "";
  #live = null;
  #level = new Level($("live-level"));
  #text = new LiveText($("live-text"));
  #startMs = 0;

  // Calls onStart before the microphone is opened, and onError with what went wrong; key() is the API key.
  constructor({ key, onStart, onError, say }) {
    Object.assign(this, { key, onStart, onError, say });
    $("live-start").addEventListener("click", () => this.start());
    $("live-stop").addEventListener("click", () => this.stop());
  }

  get isRunning() {
    return this.#live !== null;
  }

  get text() {
    return this.#text.whole;
  }

  // Offer what the server can do.
  offer(modes) {
    this.#mode = ["2pass", "online"].find((mode) => modes.includes(mode)) ?? "";
    $("live-start").hidden = !this.#mode;
    $("live-start").disabled = !Live.isPossible;
  }

  hide() {
    $("live").hidden = true;
  }

  async start() {
    this.onStart();
    this.#text.clear();
    this.#show("Starting", true);
    const live = this.#live = new Live({
      onFrame: (frame) => this.#text.take(frame),
      onLevel: (peak) => this.#hear(peak),
      onEnd: (error) => this.#end(error),
    });
    this.#startMs = 0;
    await live.start(this.#mode, this.key());
    if (this.#live !== live) return; // it has failed
    this.#startMs = performance.now();
    $("live-state").textContent = "Listening";
    this.say("Listening");
  }

  stop() {
    $("live-state").textContent = "Finishing";
    $("live-stop").disabled = true;
    this.#live?.stop();
  }

  #hear(peak) {
    this.#level.add(peak);
    $("live-clock").textContent = clock((performance.now() - this.#startMs) / 1000);
  }

  #end(error) {
    this.#live = null;
    this.#text.end();
    this.#show("", false);
    $("live").hidden = Boolean(error) && !this.text;
    if (error) this.onError(error);
    else this.say(this.text ? "Live text is complete" : "No speech was found");
  }

  #show(state, isRunning) {
    $("live-state").textContent = state;
    $("live-clock").textContent = clock(0);
    for (const [id, isShown] of [["listening", isRunning], ["idle", !isRunning]]) $(id).hidden = !isShown;
    $("live").hidden = false;
    document.body.classList.add("has-sound");
    $("live-note").hidden = !(isRunning && this.#mode === "2pass");
    $("live-done").hidden = isRunning || !this.text;
    $("live-stop").disabled = false;
    this.#level.clear();
    $(isRunning ? "live-stop" : "live-start").focus();
  }
}
