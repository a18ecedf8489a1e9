// Creates a batch of each kind through the official SDKs, polls it until it is over, fetches its results twice, and
// prints a line of JSON for it: its name, whether results were asked for, and the usage of it and of its lines as the
// SDK shows it. Tests read the lines; see tests/contract/test_npm_usage.py. Takes the URL of an ingress, a virtual key,
// and on its standard input {openai, anthropic}: lines of an input file, and requests of a message batch.
import { readFileSync } from 'node:fs';
import Anthropic from '@anthropic-ai/sdk';
import OpenAI, { toFile } from 'openai';

const [url, key] = process.argv.slice(2);
const gpt = new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: 0 });
const claude = new Anthropic({ baseURL: url, apiKey: key, maxRetries: 0 });
const asked = JSON.parse(readFileSync(0));
const POLLS = 10;

async function over(retrieve, isOver) {
  for (let poll = 0; poll < POLLS; poll += 1) {
    const batch = await retrieve();
    if (isOver(batch)) return batch;
  }
  throw new Error(`not over after ${POLLS} polls`);
}

async function openai(name, metadata, withResults) {
  const text = asked.openai.map((line) => JSON.stringify(line)).join('\n');
  const file = await gpt.files.create({ file: await toFile(Buffer.from(text), 'in.jsonl'), purpose: 'batch' });
  const { id } = await gpt.batches.create({
    input_file_id: file.id, endpoint: asked.openai[0].url, completion_window: '24h', metadata,
  });
  const batch = await over(() => gpt.batches.retrieve(id), (found) => found.status === 'completed');
  let lines = [];
  for (let time = 0; withResults && time < 2; time += 1) {
    const output = await (await gpt.files.content(batch.output_file_id)).text();
    lines = output.trim().split('\n').map((line) => JSON.parse(line).response.body.usage);
  }
  console.log(JSON.stringify({ name, id, total: batch.usage ?? null, lines }));
}

async function anthropic(name) {
  const { id } = await claude.messages.batches.create({ requests: asked.anthropic });
  await over(() => claude.messages.batches.retrieve(id), (found) => found.processing_status === 'ended');
  let lines = [];
  for (let time = 0; time < 2; time += 1) {
    lines = [];
    for await (const { result } of await claude.messages.batches.results(id)) {
      if (result.type === 'succeeded') lines.push(result.message.usage);
    }
  }
  console.log(JSON.stringify({ name, id, total: null, lines }));
}

await openai('by line', { sim: 'no_usage no_model' }, true);
await openai('as a whole', {}, false);
await anthropic('messages');
