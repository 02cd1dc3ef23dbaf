// One colour a person, the same in the picture, in space, on the timeline and in the table.
const HUES = [205, 20, 130, 285, 50, 175, 330, 90, 245, 0];

export function colour(id, lightness = 58) {
  return `hsl(${HUES[id % HUES.length]} 85% ${lightness}%)`;
}
