// What the figures mean, in plain words.

const STAGES = ["decode", "queue", "person", "pose", "lift"]; // in the order of the way through the service

export function scaleWords(people) {
  const scales = people.map((person) => person.scale).filter(Boolean);
  if (!scales.length) return "";
  const [{ stature, source }] = scales;
  return source === "given"
    ? `Sizes follow from the stature you gave, ${stature.toFixed(2)} m.`
    : `One camera cannot see absolute size: everybody is taken to be ${stature.toFixed(2)} m tall.`;
}

export function cameraWords(camera) {
  if (!camera) return "";
  const source = {
    given: "as you gave it",
    exif: "from the photo's own EXIF data",
    assumed: "assumed: a field of view of 55 degrees",
  }[camera.source];
  return `Focal length ${Math.round(camera.focal_px)} px, ${source}.`;
}

// Where up and the floor come from. end: a clip's last line, or null.
export function worldWords(end) {
  if (!end) return "Up is the camera's own; the grid lies under the lowest foot.";
  if (end.camera_to_world) return "Up and the floor were found from people who stand.";
  return `Up is the camera's own, no floor was found: ${end.reason}.`;
}

export function serviceWords(info) {
  if (!info.device) return `version ${info.version}: the models are being loaded…`;
  const engines = Object.entries(info.engines ?? {});
  const runs = engines.map(([role, engine]) => `${role} ${engine.model} (${engine.precision})`).join(", ");
  return `version ${info.version} on ${info.device}${runs ? `: ${runs}` : ""}`;
}

function stageWords(stages) {
  return stages.map(([stage, ms]) => `${stage} ${ms.toFixed(1)}\u00a0ms`).join(" · ");
}

export function photoWords(stages) {
  return `${stageWords(stages)}. Queue is the wait for the device.`;
}

// seconds: until the last line came. timings: the whole clip's milliseconds by stage, if they were told.
export function clipWords(frames, seconds, timings = {}) {
  const rate = `${frameWords(frames)} in ${seconds.toFixed(1)} s, ${(frames / seconds).toFixed(1)} a second.`;
  const stages = STAGES.filter((stage) => stage in timings).map((stage) => [stage, timings[stage] / frames]);
  if (!frames || !stages.length) return rate;
  return `${rate} For each frame: ${stageWords(stages)}; the stages work side by side, so they may add up to more. Queue is the wait for the device.`;
}

export function frameWords(count) {
  return count === 1 ? "1 frame" : `${count} frames`;
}

export function peopleWords(count) {
  return { 0: "nobody", 1: "one person" }[count] ?? `${count} people`;
}
