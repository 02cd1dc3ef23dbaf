// Draws 2D keypoints over the picture, in the picture's own pixels scaled to the canvas.
import { colour } from "./colours.js";

const SHADE = "#0008"; // behind lines and letters, which lie on pictures of any colour

export class Overlay {
  constructor(canvas) {
    this.canvas = canvas;
    this.edges = [];
  }

  clear() {
    this.canvas.width = this.canvas.height = 1; // a new size is an empty canvas
  }

  draw(width, height, people) {
    const { clientWidth, clientHeight } = this.canvas;
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = clientWidth * ratio;
    this.canvas.height = clientHeight * ratio;
    const pen = this.canvas.getContext("2d");
    const scale = Math.min(clientWidth / width, clientHeight / height);
    pen.scale(ratio, ratio);
    pen.translate((clientWidth - width * scale) / 2, (clientHeight - height * scale) / 2);
    people.forEach((person) => this.#person(pen, person, scale));
  }

  #person(pen, person, scale) {
    const paint = colour(person.id);
    const points = person.keypoints.map((point) => point && [point[0] * scale, point[1] * scale, point[2]]);
    const [x, y, width, height] = person.box.map((value) => value * scale);
    pen.strokeStyle = pen.fillStyle = paint;
    pen.globalAlpha = 0.5;
    pen.lineWidth = 1;
    pen.strokeRect(x, y, width, height);
    pen.globalAlpha = 1;
    pen.font = "700 14px system-ui";
    pen.lineJoin = "round";
    const name = [`${person.id}`, x + 3, y > 15 ? y - 4 : y + 14];
    pen.lineWidth = 3;
    pen.strokeStyle = SHADE;
    pen.strokeText(...name);
    pen.fillText(...name);
    for (const [a, b] of this.edges) {
      if (!points[a] || !points[b] || Math.min(points[a][2], points[b][2]) < 0.2) continue;
      const guessed = [a, b].some((joint) => person.states && person.states[joint] !== "seen");
      pen.setLineDash(guessed ? [5, 4] : []);
      pen.beginPath();
      pen.moveTo(points[a][0], points[a][1]);
      pen.lineTo(points[b][0], points[b][1]);
      [pen.strokeStyle, pen.lineWidth] = [SHADE, 5];
      pen.stroke();
      [pen.strokeStyle, pen.lineWidth] = [paint, 3];
      pen.stroke();
    }
    pen.strokeStyle = paint;
    pen.setLineDash([]);
    pen.lineWidth = 1.5;
    points.forEach((point, joint) => point && this.#joint(pen, point, person.states?.[joint] ?? "seen", paint));
  }

  #joint(pen, [x, y, score], state, paint) {
    if (state === "outside") {
      pen.strokeStyle = paint;
      pen.beginPath();
      pen.moveTo(x - 3, y - 3), pen.lineTo(x + 3, y + 3), pen.moveTo(x + 3, y - 3), pen.lineTo(x - 3, y + 3);
      pen.stroke();
      return;
    }
    pen.beginPath();
    pen.arc(x, y, 3.5, 0, 2 * Math.PI);
    if (state === "seen") {
      pen.fillStyle = "#fff";
      pen.globalAlpha = Math.max(0.35, score);
      pen.fill();
      pen.globalAlpha = 1;
    }
    pen.setLineDash(state === "inferred" ? [2, 2] : []);
    pen.stroke();
    pen.setLineDash([]);
  }
}
