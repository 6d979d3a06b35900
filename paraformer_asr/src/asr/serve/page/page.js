// The page: a sound goes to the server, its words come back.
import { LivePart } from "./live_part.js";
import { Player } from "./player.js";
import { Recorder } from "./recorder.js";
import { Transcript } from "./transcript.js";
import { Waveform } from "./waveform.js";
import { ServerError, listModels, transcribe } from "./server.js";
import { clock, shellQuoted } from "./text.js";

const SUFFIXES = { text: "txt", srt: "srt", vtt: "vtt", verbose_json: "json" };
const $ = (id) => document.getElementById(id);

const player = new Player(showTime);
const waveform = new Waveform($("waveform"), seek);
const transcript = new Transcript($("transcript"), (time) => { seek(time); player.play(); });
const recorder = new Recorder($("level"), (seconds) => { $("clock").textContent = clock(seconds); });
const live = new LivePart({
  key: () => options().key,
  onStart: leave,
  onError: (error) => showError(error, "Live text has ended"),
  say,
});

let model = "";        // name of the served model
let sound = null;      // the file or recording on show
let duration = 0;      // its seconds
let answers = {};      // format → text, for this sound
let request = null;    // AbortController while the server works

// ---- a sound ----

// Put away what is on show.
function leave() {
  request?.abort();
  request = null;
  player.stop();
  [sound, duration, answers] = [null, 0, {}];
  hideError();
  $("result").hidden = true;
  live.hide();
}

async function open(file) {
  leave();
  sound = file;
  $("result-heading").textContent = file.name;
  $("facts").textContent = "";
  $("result").hidden = false;
  document.body.classList.add("has-sound");
  for (const id of ["downloads", "legend"]) $(id).hidden = true;
  $("warning").textContent = "";
  transcript.clear();
  waveform.show(null, 0);
  $("player").hidden = true;
  await Promise.all([draw(file), recognise(file)]);
}

async function draw(file) {
  const buffer = await player.load(file);
  if (file !== sound || !buffer) return; // a format that this browser does not play
  duration = buffer.duration;
  waveform.show(buffer.getChannelData(0), duration);
  $("player").hidden = false;
  showTime(0, false);
}

async function recognise(file) {
  const own = request = new AbortController();
  $("working").hidden = false;
  say("Transcribing");
  try {
    const { text, warning } = await transcribe(file, "verbose_json", options(own.signal));
    if (file !== sound) return;
    answers.verbose_json = text;
    $("warning").textContent = warning;
    showTranscript(JSON.parse(text));
  } catch (error) {
    if (file === sound && error.name !== "AbortError") {
      showError(error, `${file.name} was not transcribed`);
      $("result").hidden = $("player").hidden;
    }
  } finally {
    if (request === own) {
      request = null;
      $("working").hidden = true;
    }
  }
}

function showTranscript(answer) {
  duration ||= answer.duration;
  answers.text = answer.text + "\n";
  showTime(player.time, player.isPlaying);
  $("legend").hidden = !transcript.show(answer);
  $("downloads").hidden = false;
  showCurl();
  const number = answer.words?.length ?? 0;
  say(answer.text ? `Transcript ready: ${number} ${number === 1 ? "word" : "words"}` : "No speech was found");
  $("result").focus({ preventScroll: true });
}

function options(signal) { return { model, key: $("key").value.trim(), signal }; }
function say(text) { $("status").textContent = text; }

// ---- playing ----

function seek(time) {
  player.seek(Math.min(Math.max(time, 0), duration));
}

function showTime(time, isPlaying) {
  $("play").classList.toggle("playing", isPlaying);
  $("play").setAttribute("aria-label", isPlaying ? "Pause" : "Play");
  if (duration) $("facts").textContent = (time > 0 ? `${clock(time)} / ` : "") + clock(duration);
  waveform.move(time);
  transcript.move(time, isPlaying);
}

$("play").addEventListener("click", () => player.toggle());
$("waveform").addEventListener("keydown", (event) => { if (event.key === " ") { event.preventDefault(); player.toggle(); } });

// ---- choosing and dropping ----

$("file").addEventListener("change", () => {
  const [file] = $("file").files;
  $("file").value = ""; // the same file may be chosen again
  if (file) open(file);
});

let depth = 0; // dragenter and dragleave come for inner elements, too
for (const [type, step] of [["dragenter", 1], ["dragleave", -1], ["dragover", 0]]) {
  addEventListener(type, (event) => {
    event.preventDefault();
    depth += step;
    $("drop").classList.toggle("over", depth > 0);
  });
}
addEventListener("drop", (event) => {
  event.preventDefault();
  depth = 0;
  $("drop").classList.remove("over");
  const [file] = event.dataTransfer.files;
  if (file && !recorder.isRecording && !live.isRunning) open(file);
});

// ---- recording ----

function showRecording(isRecording) {
  $("recording").hidden = !isRecording;
  $("idle").hidden = isRecording;
  $("result").hidden = isRecording || !sound;
  $(isRecording ? "stop" : "record").focus();
}

$("record").addEventListener("click", async () => {
  hideError();
  player.stop();
  try {
    await recorder.start();
  } catch (error) {
    return showError(error, "Not recorded");
  }
  showRecording(true);
  say("Recording");
});
$("stop").addEventListener("click", async () => {
  const file = await recorder.stop();
  showRecording(false);
  open(file);
});
$("discard").addEventListener("click", async () => {
  await recorder.stop();
  showRecording(false);
  say("Discarded");
});
if (!Recorder.isPossible) {
  $("record").disabled = true;
  $("no-microphone").hidden = false;
}

// ---- formats ----

const format = () => document.querySelector("[name=format]:checked").value;

async function answerIn(name) {
  const file = sound;
  answers[name] ??= (await transcribe(file, name, options())).text;
  return answers[name];
}

async function withAnswer(use) {
  hideError();
  try {
    await use(await answerIn(format()));
  } catch (error) {
    showError(error);
  }
}

$("download").addEventListener("click", () => withAnswer((text) => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text]));
  link.download = `${sound.name.replace(/\.[^.]*$/, "") || "transcript"}.${SUFFIXES[format()]}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}));
$("copy").addEventListener("click", () => withAnswer((text) => copy(text, $("copy"))));
$("copy-curl").addEventListener("click", () => copy($("curl").textContent, $("copy-curl")));
$("live-copy").addEventListener("click", () => copy(live.text, $("live-copy")));
$("formats").addEventListener("change", showCurl);
$("key").addEventListener("input", () => { showCurl(); });
$("key").addEventListener("change", showModel);

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    return showError(new ServerError("The browser does not let this page copy; select the text instead."), "Not copied");
  }
  button.textContent = "Copied";
  say("Copied");
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}

function showCurl() {
  if (!sound) return;
  const words = format() === "verbose_json" ? ["timestamp_granularities[]=word", "timestamp_granularities[]=segment"] : [];
  const fields = [`file=@${sound.name}`, ...(model ? [`model=${model}`] : []), `response_format=${format()}`, ...words];
  const key = $("key").value.trim() ? [`-H "Authorization: Bearer $ASR_API_KEY"`] : [];
  const address = new URL("v1/audio/transcriptions", document.baseURI).href;
  $("curl").textContent =
    [`curl ${shellQuoted(address)}`, ...key, ...fields.map((field) => `-F ${shellQuoted(field)}`)].join(" \\\n  ");
}

// ---- errors and the start ----

function showError(error, title = "Not transcribed") {
  $("error-title").textContent = title;
  $("error-message").textContent = error.message;
  $("retry").hidden = !(error.canRetry && sound);
  $("error").hidden = false;
  if (error.status === 401) {
    $("options").open = true;
    $("key").focus();
  }
}

const hideError = () => { $("error").hidden = true; };
$("retry").addEventListener("click", () => open(sound));
$("cancel").addEventListener("click", () => { request?.abort(); say("Cancelled"); });
addEventListener("keydown", (event) => { if (event.key === "Escape") request?.abort(); });

async function showModel() {
  try {
    const [first] = await listModels(options());
    $("model").textContent = model = first.id;
    live.offer(first.modes ?? []);
  } catch (error) {
    $("model").textContent = error.status === 401 ? "asks for a key" : "not ready";
    if (error.status === 401) $("options").open = true;
  }
}
showModel();
