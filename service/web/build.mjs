// Writes built/: one script, one style sheet, the page, the licences of what is inside, and the hashes of all that.
import { createHash } from "node:crypto";
import { readFileSync, readdirSync, writeFileSync, copyFileSync, mkdirSync } from "node:fs";
import { build } from "esbuild";

mkdirSync("built", { recursive: true });
await build({
  entryPoints: ["source/page.js"], outfile: "built/page.js", bundle: true, minify: true, format: "iife",
  target: "es2022", legalComments: "none",
});
copyFileSync("source/index.html", "built/index.html");
copyFileSync("source/page.css", "built/page.css");

const licences = ["three", "@msgpack/msgpack"].map((name) => {
  const { version, license } = JSON.parse(readFileSync(`node_modules/${name}/package.json`));
  return `${name} ${version}, ${license}\n\n${readFileSync(`node_modules/${name}/LICENSE`, "utf8")}`;
});
writeFileSync("built/LICENCES.txt", licences.join("\n\n----\n\n"));

const sha256 = (path) => createHash("sha256").update(readFileSync(path)).digest("hex");
const hashes = (folder) => Object.fromEntries(readdirSync(folder).sort().filter((name) => name !== "hashes.json")
  .map((name) => [name, sha256(`${folder}/${name}`)]));
writeFileSync("built/hashes.json", JSON.stringify({ source: hashes("source"), built: hashes("built") }, null, 1) + "\n");
