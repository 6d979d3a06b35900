// Sends the microphone to the server while somebody speaks, in FunASR's protocol, and hands on the frames that come back.
import { closeMicrophone, mayHaveMicrophone, openMicrophone } from "./microphone.js";
import { ServerError, openStream, whyRefused } from "./server.js";

const RATE_HZ = 16000;
const MAX_WAITING_BYTES = 2 * RATE_HZ * 20; // of sound that the network has not taken

export class Live {
  static isPossible = Boolean(mayHaveMicrophone && window.AudioWorkletNode);
  #stream = null;
  #context = null;
  #node = null;
  #socket = null;
  #isListening = false;
  #isDone = false;

  // Calls onFrame with each frame of text, onLevel with the loudest sample of each 60 ms, and onEnd once, at the end: with
  // the error, or without one.
  constructor({ onFrame, onLevel, onEnd }) {
    Object.assign(this, { onFrame, onLevel, onEnd });
  }

  async start(mode, key) {
    try {
      this.#stream = await openMicrophone();
      this.#stream.getAudioTracks()[0].onended = () => this.stop(); // unplugged
      const source = await this.#prepare();
      await this.#connect(key);
      if (this.#isDone) return this.#release(); // stopped meanwhile
      const settings = { mode, audio_fs: this.#context.sampleRate, wav_format: "pcm", wav_name: "live", is_speaking: true };
      this.#socket.send(JSON.stringify(settings));
      this.#node.port.onmessage = ({ data }) => this.#take(data);
      source.connect(this.#node).connect(this.#context.destination); // its output is silence
      this.#isListening = true;
    } catch (error) {
      this.#end(error);
    }
  }

  // End the sound; onEnd is called when all of its text is there.
  stop() {
    if (!this.#isListening) return this.#end();
    this.#node.port.postMessage("end");
    closeMicrophone(this.#stream);
  }

  // Prepare the node that cuts the sound into frames; return the microphone as the source of its sound.
  async #prepare() {
    let source;
    try {
      this.#context = new AudioContext({ sampleRate: RATE_HZ });
      source = this.#context.createMediaStreamSource(this.#stream);
    } catch { // Firefox does not resample; the server does
      this.#context = new AudioContext();
      source = this.#context.createMediaStreamSource(this.#stream);
    }
    await this.#context.audioWorklet.addModule("page/capture_worklet.js");
    this.#node = new AudioWorkletNode(this.#context, "capture", { channelCount: 1, channelCountMode: "explicit" });
    return source;
  }

  async #connect(key) {
    this.#socket = openStream(key);
    const isOpen = await new Promise((resolve) => {
      this.#socket.onopen = () => resolve(true);
      this.#socket.onclose = () => resolve(false);
    });
    if (!isOpen) throw await whyRefused(key);
    this.#socket.onclose = () => this.#end(new ServerError("The connection to the server was lost."));
    this.#socket.onmessage = ({ data }) => this.#obey(JSON.parse(data));
  }

  #take(frame) {
    if (this.#isDone) return;
    if (frame === null) return this.#socket.send(JSON.stringify({ is_speaking: false, is_end: true }));
    this.#socket.send(frame.samples);
    this.onLevel(frame.peak);
    if (this.#socket.bufferedAmount > MAX_WAITING_BYTES) this.#end(new ServerError("The network is too slow for live sound."));
  }

  #obey(frame) {
    if (this.#isDone) return;
    if (frame.error) return this.#end(new ServerError(frame.error));
    if (frame.is_end) return this.#end();
    this.onFrame(frame);
  }

  #end(error) {
    if (this.#isDone) return;
    this.#isDone = true;
    this.#release();
    this.onEnd(error);
  }

  #release() {
    closeMicrophone(this.#stream);
    if (this.#context?.state !== "closed") this.#context?.close();
    this.#socket?.close();
  }
}
