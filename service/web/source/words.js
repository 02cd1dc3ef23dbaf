// What the figures mean, in plain words.

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

export function serviceWords(info) {
  const engines = Object.entries(info.engines ?? {});
  const runs = engines.map(([role, engine]) => `${role} ${engine.model} (${engine.precision})`).join(", ");
  return `version ${info.version} on ${info.device}${runs ? `: ${runs}` : ""}`;
}

export function stageWords(stages) {
  return stages.map(([stage, ms]) => `${stage} ${ms.toFixed(1)} ms`).join(" · ");
}
