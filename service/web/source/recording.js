// What the page knows of one photo, clip or stream: its frames in their order, its tracks, its scale, its end.

export class Recording {
  constructor(kind, width = 0, height = 0) {
    Object.assign(this, { kind, width, height, frames: [], tracks: new Map(), end: null });
  }

  static ofPhoto({ image, people }) {
    const recording = new Recording("photo", image.width, image.height);
    recording.add({ index: 0, time: 0, people });
    return recording;
  }

  add(frame) {
    this.frames.push(frame);
    for (const { id } of frame.people) {
      const seen = this.tracks.get(id) ?? { id, at: [] };
      seen.at.push(this.frames.length - 1);
      this.tracks.set(id, seen);
    }
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
}
