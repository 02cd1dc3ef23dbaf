// The page: a file or the webcam in, one recording out, shown in the picture, in space and on one timeline.
import { colour } from "./colours.js";
import { Exports } from "./exports.js";
import { isClip, refusal } from "./files.js";
import { Overlay } from "./overlay.js";
import { Player } from "./player.js";
import { Recording } from "./recording.js";
import { ask, sendClip, sendPhoto, useKey } from "./service.js";
import { Space } from "./space.js";
import { Webcam } from "./webcam.js";
import { cameraWords, clipWords, frameWords, peopleWords, photoWords, scaleWords, serviceWords, worldWords } from "./words.js";

const KEPT_LIVE_FRAMES = 3000;
const TOLD_EVERY = 10; // frames between two words of progress
const LOOKED_AT = 60; // frames of a clip, by which the view's place is chosen
const COLUMNS = [
  ["", ""],
  ["score", "the chance that a person is there"],
  ["distance", "from the camera to the pelvis"],
  ["joints seen", "of 17; the others are occluded, outside the picture or inferred"],
];
const ASKED_AGAIN_MS = 2000; // while the service loads its models

const part = (id) => document.getElementById(id);
const overlay = new Overlay(part("overlay"));
const space = new Space(part("space"));
const player = new Player(
  { video: part("video"), photo: part("photo"), still: part("still") },
  show,
  (plays) => (part("play").textContent = plays ? "Pause" : "Play"),
);
const exports = new Exports(part("exports"), part("curl"), say);

let recording = null; // what is shown
let file = null; // where it came from; null for the webcam
let camera = null;
let limits = null; // the service's
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
  if (!recording?.frames[index]) return;
  shown = index;
  const people = recording.people(index);
  overlay.draw(recording.width, recording.height, people);
  space.show(people, recording.world);
  part("scale").textContent = [worldWords(recording.end), scaleWords(people), cameraWords(camera)].join(" ");
  part("people").replaceChildren(peopleTable(people));
  if (recording.kind === "photo") return;
  const { time } = recording.frames[index];
  part("moment").value = index;
  part("clock").textContent = `${time.toFixed(2)} s`;
}

function look(index) {
  space.look([recording.people(index)], recording.world);
}

// So that nobody walks out of the view.
function lookAtAll() {
  const step = Math.ceil(recording.frames.length / LOOKED_AT);
  const some = [...recording.frames.keys()].filter((index) => index % step === 0);
  space.look(some.map((index) => recording.people(index)), recording.world);
}

function peopleTable(people) {
  const table = document.createElement("table");
  if (!people.length) {
    table.insertRow().insertCell().textContent = "nobody in this picture";
    return table;
  }
  const head = table.createTHead().insertRow();
  for (const [textContent, title] of COLUMNS) head.append(Object.assign(document.createElement("th"), { textContent, title }));
  const body = table.createTBody();
  for (const person of people) {
    const row = body.insertRow();
    const swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.background = colour(person.id);
    row.insertCell().append(swatch, `person ${person.id}`);
    const away = person.position ? `${Math.hypot(...person.position).toFixed(1)} m` : "not known";
    const seen = person.states?.filter((state) => state === "seen").length;
    for (const text of [person.score.toFixed(2), away, seen ?? ""]) row.insertCell().textContent = text;
  }
  return table;
}

function drawTracks() {
  if (!recording || part("time").hidden) return;
  const canvas = part("tracks");
  const lanes = [...recording.tracks.values()];
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, Math.max(20, 8 * lanes.length + 4)];
  [canvas.width, canvas.height, canvas.style.height] = [width * ratio, height * ratio, `${height}px`];
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  const step = width / Math.max(recording.frames.length, 1);
  lanes.forEach((track, lane) => {
    pen.fillStyle = colour(track.id);
    track.at.forEach((at) => pen.fillRect(at * step, 2 + 8 * lane, Math.max(step, 1), 6));
  });
}

function begin(source) {
  running.abort();
  running = new AbortController();
  webcam?.stop();
  player.clear();
  recording = camera = null;
  [file, shown] = [source, -1];
  [part("moment").value, part("moment").max, part("clock").textContent] = [0, 0, ""];
  overlay.clear();
  space.show([], null);
  exports.hide();
  part("time").hidden = part("stop").hidden = true;
  for (const id of ["stages", "scale", "people"]) part(id).textContent = "";
  return running.signal;
}

async function open(chosen) {
  const signal = begin(chosen);
  const reason = refusal(chosen, limits);
  if (reason) return say(reason, true);
  try {
    await (isClip(chosen) ? openClip(chosen, signal) : openPhoto(chosen, signal));
  } catch (error) {
    if (signal.aborted) return;
    part("stop").hidden = true;
    part("key-field").hidden &&= error.status !== 401;
    say(error.message, true);
  }
}

function unseen() {
  return player.seen ? "" : " This browser cannot show the picture itself, so its skeletons are shown alone.";
}

async function openPhoto(chosen, signal) {
  player.openPhoto(chosen);
  say("Looking for people…");
  const [{ answer, stages }] = await Promise.all([sendPhoto(chosen, options(), signal), player.ready]);
  if (signal.aborted) return;
  recording = Recording.ofPhoto(answer);
  camera = answer.camera;
  show(0);
  look(0);
  part("stages").textContent = photoWords(stages);
  exports.offer(recording, chosen, options(), signal);
  const found = peopleWords(answer.people.length);
  say(`${found[0].toUpperCase()}${found.slice(1)}.${unseen()}`);
}

async function openClip(chosen, signal) {
  player.openClip(chosen);
  const began = performance.now();
  say("Sending the clip…");
  let [total, problem, anybody] = [null, null, false];
  const stopped = new AbortController();
  part("stop").onclick = () => stopped.abort();
  part("stop").hidden = false;
  await sendClip(chosen, options(), AbortSignal.any([signal, stopped.signal]), (line) => {
    if (line.type === "start") {
      recording = new Recording("clip", ...line.size);
      [camera, total] = [line.camera, line.frames];
      player.follow(recording);
      part("time").hidden = false;
    } else if (line.type === "frame") {
      recording.add(line);
      const last = recording.frames.length - 1;
      part("moment").max = last;
      // While the others come: the first frame, then the first one with somebody.
      const first = !anybody && line.people.length > 0;
      if (!last || first) player.go(last);
      if (first) look(last);
      anybody ||= first;
      if (last % TOLD_EVERY === 0) {
        drawTracks();
        say(`${last + 1}${total ? ` of ${total}` : ""} frames…`);
      }
    } else if (line.type === "end") {
      recording.finish(line);
    } else if (line.type === "error") {
      ({ problem } = line);
    }
  }).catch((error) => {
    if (!stopped.signal.aborted) throw error;
    problem = { detail: "Stopped." };
  });
  const seconds = (performance.now() - began) / 1000;
  await player.ready;
  if (signal.aborted) return;
  part("stop").hidden = true;
  problem ??= recording?.end ? null : { detail: "The answer was cut off." };
  const count = recording?.frames.length ?? 0;
  if (!count) throw new Error(problem?.detail ?? "The clip has no frames.");
  drawTracks();
  const best = recording.fullest;
  shown = -1;
  player.go(best);
  lookAtAll();
  part("stages").textContent = clipWords(count, seconds, recording.end?.timings_ms);
  exports.offer(recording, chosen, options(), signal, !problem);
  const told = `${frameWords(count)}, ${peopleWords(recording.tracks.size)}.${unseen()}`;
  say(problem ? `${problem.detail} What came before is shown: ${told}` : told, Boolean(problem));
}

async function toggleWebcam() {
  if (webcam) return webcam.stop();
  const signal = begin(null);
  player.openStream();
  webcam = new Webcam(part("video"), {
    onPose: (pose, seconds) => {
      if (!recording || recording.frames.length >= KEPT_LIVE_FRAMES) recording = new Recording("live", ...webcam.size);
      recording.add({ index: pose.seq, time: pose.time ?? 0, people: pose.people });
      show(recording.frames.length - 1);
      if (recording.frames.length === 1 && pose.people.length) look(0);
      part("stages").textContent = `answered in ${(1000 * seconds).toFixed(0)} ms, ${pose.dropped ?? 0} pictures dropped`;
    },
    onError: (words) => say(words, true),
    onEnd: (reason) => {
      webcam = null;
      part("webcam").textContent = "Use the webcam";
      if (recording?.frames.length) exports.offer(recording, null);
      say(reason || "The webcam is off; its pictures were not kept, their poses can be saved.", Boolean(reason));
    },
  });
  part("webcam").textContent = "Stop the webcam";
  say("Waiting for the webcam…");
  try {
    await webcam.start({ fps: 15, states: true, stature: Number(part("stature").value) || undefined });
    if (!signal.aborted) say("Live.");
  } catch (error) {
    webcam?.stop();
    webcam = null;
    part("webcam").textContent = "Use the webcam";
    if (!signal.aborted) say(`The webcam cannot be used: ${error.message}`, true);
  }
}

function greet() {
  Promise.all([ask("v1/info"), ask("v1/skeletons")]).then(([info, { skeletons }]) => {
    limits = info.limits;
    part("service").textContent = serviceWords(info);
    overlay.edges = skeletons.find(({ name }) => name === "coco17").edges;
    space.bones = skeletons.find(({ name }) => name === "h36m17").edges;
    show(shown);
    if (!info.device) setTimeout(greet, ASKED_AGAIN_MS);
  }).catch((error) => {
    part("key-field").hidden &&= error.status !== 401;
    part("service").textContent = "";
    say(error.message, true);
  });
}

part("file").onchange = ({ target }) => {
  const [chosen] = target.files;
  target.value = ""; // so that the same file can be chosen again
  if (chosen) open(chosen);
};
part("webcam").onclick = toggleWebcam;
part("key").onchange = ({ target }) => {
  useKey(target.value);
  say("");
  greet();
  if (file) open(file);
};
part("stature").onchange = () => file && open(file);
part("moment").oninput = ({ target }) => player.go(Number(target.value));
part("play").onclick = () => player.toggle();
new ResizeObserver(() => (show(shown), drawTracks())).observe(part("picture"));
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.toggle("dropping", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files[0]) open(event.dataTransfer.files[0]);
  });
}
greet();
