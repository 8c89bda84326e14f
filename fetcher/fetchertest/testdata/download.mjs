// Downloads a repository with npm's @huggingface/hub, and prints a JSON object.
// argv: Hub's address, repository, revision, cache directory, token or "".
// STOKER_TEST_NPM is the folder that has node_modules in it. The last line of
// stdout is the result: the client writes lines of its own.
import { createRequire } from "node:module";
import { join } from "node:path";

const require = createRequire(join(process.env.STOKER_TEST_NPM, "x.js"));
const hub = require("@huggingface/hub");
const [hubUrl, repo, revision, cacheDir, accessToken] = process.argv.slice(2);
const common = { repo, revision, hubUrl, ...(accessToken ? { accessToken } : {}) };

try {
  const files = [];
  for await (const f of hub.listFiles({ ...common, recursive: true })) {
    if (f.type === "file") files.push(f.path);
  }
  const one = await hub.downloadFile({ ...common, path: "config.json", xet: false });
  const path = await hub.snapshotDownload({ ...common, cacheDir });
  console.log(JSON.stringify({ path, files, config: await one.text() }));
} catch (e) {
  console.log(JSON.stringify({ error: e.constructor.name, text: String(e.message) }));
}
