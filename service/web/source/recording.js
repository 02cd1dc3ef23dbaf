// What the page knows of one photo, clip or stream: its frames in their order, its tracks, its end. Frames are kept as
// they were told; what only the whole clip tells (who is the same person, each track's scale) is applied when asked for.

export class Recording {
  #same = {}; // a later id to the first
  #factors = {};

  constructor(kind, width = 0, height = 0) {
    Object.assign(this, { kind, width, height, frames: [], tracks: new Map(), end: null, world: null });
  }

  static ofPhoto({ image, people }) {
    const recording = new Recording("photo", image.width, image.height);
    recording.add({ index: 0, time: 0, people });
    return recording;
  }

  add(frame) {
    this.frames.push(frame);
    this.#follow(frame.people, this.frames.length - 1);
  }

  finish(end) {
    this.end = end;
    this.world = end.camera_to_world;
    this.#same = end.merged;
    this.#factors = Object.fromEntries(end.tracks.map(({ id, factor }) => [id, factor ?? 1]));
    this.tracks.clear();
    this.frames.forEach(({ people }, index) => this.#follow(people, index));
  }

  // The people of frame number `index`, with what is known of them by now.
  people(index) {
    return this.frames[index].people.map((person) => {
      const factor = this.#factors[person.id] ?? 1;
      const larger = (point) => point && point.map((value) => factor * value);
      const id = this.#same[person.id] ?? person.id;
      return { ...person, id, joints3d: person.joints3d?.map(larger), position: larger(person.position) };
    });
  }

  // The number of the middle one of the frames with the most people: in the first somebody has just come in.
  get fullest() {
    const counts = this.frames.map(({ people }) => people.length);
    const most = counts.reduce((a, b) => Math.max(a, b), 0);
    const full = [...counts.keys()].filter((n) => counts[n] === most);
    return full[Math.floor(full.length / 2)];
  }

  // The number of the last frame at or before a time in seconds.
  at(time) {
    let low = 0;
    let high = this.frames.length - 1;
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      if (this.frames[middle].time <= time + 1e-4) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  // A time at which a player surely shows frame number `index`: at its very beginning it may still show the one before.
  middle(index) {
    const { time } = this.frames[index];
    return (time + (this.frames[index + 1]?.time ?? time + 0.02)) / 2;
  }

  get json() {
    return JSON.stringify({ kind: this.kind, width: this.width, height: this.height, frames: this.frames, end: this.end });
  }

  #follow(people, index) {
    for (const person of people) {
      const id = this.#same[person.id] ?? person.id;
      const seen = this.tracks.get(id) ?? { id, at: [] };
      seen.at.push(index);
      this.tracks.set(id, seen);
    }
  }
}
