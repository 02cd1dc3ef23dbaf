// The page: a file or the webcam in, one recording out, shown in the picture, in space and on one timeline.
import { colour } from "./colours.js";
import { Overlay } from "./overlay.js";
import { Recording } from "./recording.js";
import { ask, curlCommand, fetchFile, sendClip, sendPhoto, useKey } from "./service.js";
import { Space } from "./space.js";
import { Webcam } from "./webcam.js";
import { cameraWords, scaleWords, serviceWords, stageWords } from "./words.js";

const CLIP_FORMATS = ["csv", "npz", "coco", "openpose", "trc", "bvh", "c3d", "mp4"];
const KEPT_LIVE_FRAMES = 3000;

const part = (id) => document.getElementById(id);
const overlay = new Overlay(part("overlay"));
const space = new Space(part("space"));
const [video, photo] = [part("video"), part("photo")];

let recording = null; // what is shown
let file = null; // where it came from; null for the webcam
let camera = null;
let shown = -1;
let running = new AbortController();
let webcam = null;

function say(text, bad = false) {
  part("message").textContent = text;
  part("message").classList.toggle("bad", bad);
}

function options() {
  return { stature: part("stature").value || undefined, states: true };
}

function show(index) {
  const frame = recording?.frames[index];
  if (!frame) return;
  shown = index;
  overlay.draw(recording.width, recording.height, frame.people);
  space.show(frame.people);
  part("scale").textContent = `${scaleWords(frame.people)} ${cameraWords(camera)}`;
  part("people").replaceChildren(peopleTable(frame.people));
  if (recording.kind === "photo") return;
  part("moment").value = index;
  part("clock").textContent = `${frame.time.toFixed(2)} s`;
}

// Where there is a video, its skeletons are shown once it shows that frame: a seek takes a while.
function go(index) {
  if (video.src && !video.error) video.currentTime = recording.middle(index);
  else show(index);
}

function peopleTable(people) {
  const table = document.createElement("table");
  const rows = people.map((person) => {
    const away = person.position ? `${Math.hypot(...person.position).toFixed(1)} m away` : "place not known";
    const seen = person.states?.filter((state) => state === "seen").length;
    return [person.id, `score ${person.score.toFixed(2)}`, away, seen === undefined ? "" : `${seen} joints seen`];
  });
  for (const [id, ...cells] of rows) {
    const row = table.insertRow();
    const swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.background = colour(id);
    row.insertCell().append(swatch, `person ${id}`);
    cells.forEach((text) => (row.insertCell().textContent = text));
  }
  if (!rows.length) table.insertRow().insertCell().textContent = "nobody in this picture";
  return table;
}

function drawTracks() {
  const canvas = part("tracks");
  const lanes = [...recording.tracks.values()];
  canvas.width = canvas.clientWidth;
  canvas.height = Math.max(20, 8 * lanes.length + 4);
  const pen = canvas.getContext("2d");
  const step = canvas.width / Math.max(recording.frames.length, 1);
  lanes.forEach((track, lane) => {
    pen.fillStyle = colour(track.id);
    track.at.forEach((at) => pen.fillRect(at * step, 2 + 8 * lane, Math.max(step, 1), 6));
  });
}

function begin(source) {
  running.abort();
  running = new AbortController();
  webcam?.stop();
  video.pause();
  if (video.src) URL.revokeObjectURL(video.src);
  video.removeAttribute("src");
  recording = camera = null;
  [file, shown] = [source, -1];
  part("time").hidden = part("exports").hidden = part("curl").hidden = true;
  part("stages").textContent = "";
  return running.signal;
}

async function open(chosen) {
  const signal = begin(chosen);
  const isClip = chosen.type.startsWith("video/") || chosen.type === "image/gif";
  try {
    await (isClip ? openClip(chosen, signal) : openPhoto(chosen, signal));
  } catch (error) {
    if (error.name === "AbortError") return;
    part("key-field").hidden &&= error.status !== 401;
    say(error.message, true);
  }
}

async function openPhoto(chosen, signal) {
  photo.src = URL.createObjectURL(chosen);
  [photo.hidden, video.hidden] = [false, true];
  say("Looking for people…");
  const { answer, stages } = await sendPhoto(chosen, options(), signal);
  recording = Recording.ofPhoto(answer);
  camera = answer.camera;
  show(0);
  space.look(answer.people);
  part("stages").textContent = stageWords(stages);
  offerExports("photo", ["picture"]);
  say(answer.people.length === 1 ? "One person." : `${answer.people.length} people.`);
}

async function openClip(chosen, signal) {
  const playable = chosen.type.startsWith("video/");
  if (playable) video.src = URL.createObjectURL(chosen);
  else photo.src = URL.createObjectURL(chosen);
  [photo.hidden, video.hidden] = [playable, !playable];
  const began = performance.now();
  say("Sending the clip…");
  await sendClip(chosen, options(), signal, (line) => {
    if (line.type === "start") {
      recording = new Recording("clip", ...line.size);
      camera = line.camera;
      part("time").hidden = false;
    } else if (line.type === "frame") {
      recording.add(line);
      part("moment").max = recording.frames.length - 1;
      if (recording.frames.length === 1 || (shown < 0 && line.people.length)) show(recording.frames.length - 1);
      if (line.people.length && recording.tracks.size === line.people.length && recording.frames.length < 3) space.look(line.people);
      if (recording.frames.length % 10 === 0) drawTracks();
      say(`${recording.frames.length} frames…`);
    } else if (line.type === "end") {
      recording.end = line;
    } else if (line.type === "error") {
      throw new Error(line.problem?.detail ?? line.detail ?? line.title);
    }
  });
  drawTracks();
  const seconds = (performance.now() - began) / 1000;
  part("stages").textContent = `${recording.frames.length} frames in ${seconds.toFixed(1)} s, ${(recording.frames.length / seconds).toFixed(1)} a second`;
  const best = recording.frames.findIndex((frame) => frame.people.length === Math.max(...recording.frames.map((f) => f.people.length)));
  go(best);
  space.look(recording.frames[best].people);
  offerExports("clip", CLIP_FORMATS);
  say(`${recording.frames.length} frames, ${recording.tracks.size === 1 ? "one person" : `${recording.tracks.size} people`}.`);
}

async function toggleWebcam() {
  if (webcam) return begin(null);
  const signal = begin(null);
  [photo.hidden, video.hidden] = [true, false];
  webcam = new Webcam(video, (pose, seconds) => {
    recording ??= new Recording("live", ...webcam.size);
    if (recording.frames.length >= KEPT_LIVE_FRAMES) recording = new Recording("live", ...webcam.size);
    recording.add({ index: pose.seq, time: pose.time ?? 0, people: pose.people });
    show(recording.frames.length - 1);
    if (recording.frames.length === 1 && pose.people.length) space.look(pose.people);
    part("stages").textContent = `answered in ${(1000 * seconds).toFixed(0)} ms, ${pose.dropped ?? 0} pictures dropped`;
  }, (reason) => {
    webcam = null;
    part("webcam").textContent = "Use the webcam";
    if (recording?.frames.length) offerExports("live", []);
    if (reason) say(reason, true);
  });
  part("webcam").textContent = "Stop the webcam";
  try {
    await webcam.start({ fps: 15, stature: Number(part("stature").value) || undefined });
    say("Live.");
  } catch (error) {
    webcam?.stop();
    webcam = null;
    part("webcam").textContent = "Use the webcam";
    if (!signal.aborted) say(`The webcam cannot be used: ${error.message}`, true);
  }
}

function offerExports(kind, formats) {
  const save = (name, blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  };
  const stem = file ? file.name.replace(/\.[^.]*$/, "") : "webcam";
  const button = (text, work) => {
    const made = document.createElement("button");
    made.textContent = text;
    made.onclick = async () => {
      made.disabled = true;
      await Promise.resolve(work()).catch((error) => say(error.message, true));
      made.disabled = false;
    };
    return made;
  };
  const exported = async (format) => {
    const plain = { ...options(), states: undefined };
    const found = format === "picture"
      ? await fetchFile("photo", file, plain, "image/png")
      : await fetchFile("clip", file, { ...plain, format }, "*/*");
    save(found.name ?? `${stem}.${format === "picture" ? "png" : format}`, found.blob);
  };
  const buttons = [button("json", () => save(`${stem}.json`, new Blob([recording.json], { type: "application/json" })))];
  buttons.push(...formats.map((format) => button(format, () => exported(format))));
  if (file) {
    const command = curlCommand(kind, file, options());
    part("curl").textContent = command;
    part("curl").hidden = false;
    buttons.push(button("copy as curl", () => navigator.clipboard.writeText(command)));
  }
  part("exports").replaceChildren("save:", ...buttons);
  part("exports").hidden = false;
}

part("file").onchange = ({ target }) => target.files[0] && open(target.files[0]);
part("webcam").onclick = toggleWebcam;
part("key").onchange = ({ target }) => {
  useKey(target.value);
  if (file) open(file);
};
part("stature").onchange = () => file && open(file);
part("moment").oninput = ({ target }) => go(Number(target.value));
part("play").onclick = () => (video.src && (video.paused ? video.play() : video.pause()));
video.onplay = () => (part("play").textContent = "Pause");
video.onpause = () => (part("play").textContent = "Play");
new ResizeObserver(() => show(shown)).observe(part("picture"));
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.toggle("dropping", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files[0]) open(event.dataTransfer.files[0]);
  });
}
function showAt(time) {
  if (recording?.kind !== "clip" || !video.src || video.seeking) return;
  const now = recording.at(time);
  if (now !== shown) show(now);
}
// The time of the frame that is on the screen, which `currentTime` may be ahead of.
(function follow() {
  if (video.requestVideoFrameCallback) video.requestVideoFrameCallback((_, { mediaTime }) => (showAt(mediaTime), follow()));
  else requestAnimationFrame(() => (showAt(video.currentTime), follow()));
})();
video.onseeked = () => showAt(video.currentTime);

Promise.all([ask("v1/info"), ask("v1/skeletons")]).then(([info, { skeletons }]) => {
  part("service").textContent = serviceWords(info);
  overlay.edges = skeletons.find(({ name }) => name === "coco17").edges;
  space.bones = skeletons.find(({ name }) => name === "h36m17").edges;
}).catch((error) => {
  part("key-field").hidden = error.status !== 401;
  say(error.message, true);
});
