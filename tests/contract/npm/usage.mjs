// Calls every metered operation through the official SDKs and prints a line of JSON for each: its name, the event that
// the answer names, and the usage (or whatever else is billed) as the SDK shows it. Tests read the lines; see
// tests/contract/test_npm_usage.py. Takes the URL of an ingress and a virtual key.
import { readFileSync } from 'node:fs';
import Anthropic from '@anthropic-ai/sdk';
import OpenAI, { toFile } from 'openai';

const [url, key] = process.argv.slice(2);
const gpt = new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: 0 });
const claude = new Anthropic({ baseURL: url, apiKey: key, maxRetries: 0 });
const sound = readFileSync(0);

const WISH = '[[sim output=40 usage_input=90 cached=20 cache_write=6 reasoning=12]] tell me';
const TOOLS = '[[sim output=9 usage_input=30 searches=2 file_searches=1 code_sessions=1 tier=flex]] find';
const CLAUDE =
  '[[sim output=30 usage_input=80 cached=10 cache_write=20 cache_write_1h=5 searches=3 tier=priority]] x';
const messages = [{ role: 'user', content: WISH }];
const asked = { stream: true, stream_options: { include_usage: true } };
const message = { model: 'claude-sonnet', max_tokens: 50, messages: [{ role: 'user', content: CLAUDE }] };
// Made beforehand: an async call would unwrap the SDK's promise, and with it the way to the headers.
const mp3 = await toFile(sound, 'a.mp3');
const [png, other] = [await toFile(Buffer.from('one'), 'a.png'), await toFile(Buffer.from('two'), 'b.png')];
const lines = await toFile(Buffer.from('{}'), 'in.jsonl');

async function last(stream) {
  let found;
  for await (const event of stream) found = event;
  return found;
}

const billed = (response) => ({
  usage: response.usage,
  tier: response.service_tier,
  kinds: response.output.map((item) => item.type),
});

// Name -> [the call, what is billed in its data].
const CALLS = {
  'chat.completions': [() => gpt.chat.completions.create({ model: 'nick', messages }), (d) => d.usage],
  'chat.completions streamed': [
    () => gpt.chat.completions.create({ model: 'nick', messages, ...asked }),
    async (d) => (await last(d)).usage,
  ],
  completions: [() => gpt.completions.create({ model: 'gpt-5', prompt: WISH }), (d) => d.usage],
  'completions streamed': [
    () => gpt.completions.create({ model: 'gpt-5', prompt: WISH, ...asked }),
    async (d) => (await last(d)).usage,
  ],
  responses: [() => gpt.responses.create({ model: 'gpt-5', input: TOOLS }), billed],
  'responses streamed': [
    () => gpt.responses.create({ model: 'gpt-5', input: TOOLS, stream: true }),
    async (d) => billed((await last(d)).response),
  ],
  embeddings: [
    () => gpt.embeddings.create({ model: 'text-embedding-3-small', input: ['one two', 'three'] }),
    (d) => d.usage,
  ],
  moderations: [
    () => gpt.moderations.create({ model: 'omni-moderation-latest', input: 'be nice' }),
    (d) => d.results.length,
  ],
  messages: [() => claude.messages.create(message), (d) => d.usage],
  'messages streamed': [
    () => claude.messages.create({ ...message, stream: true }),
    async (d) => {
      let usage = {};
      for await (const event of d) usage = { ...usage, ...(event.message?.usage ?? event.usage ?? {}) };
      return usage;
    },
  ],
  'messages.count_tokens': [
    () => claude.messages.countTokens({ model: 'claude-sonnet', messages: [{ role: 'user', content: 'a b' }] }),
    (d) => d.input_tokens,
  ],
  'images.generations': [
    () => gpt.images.generate({ model: 'pictures', prompt: 'two grey cats', quality: 'low' }),
    (d) => d.usage,
  ],
  'images.generations streamed': [
    () => gpt.images.generate({ model: 'gpt-image-2', prompt: 'two cats', stream: true, partial_images: 1 }),
    async (d) => (await last(d)).usage,
  ],
  'images.generations by number': [
    () => gpt.images.generate({ model: 'dall-e-3', prompt: 'a cat', n: 2 }),
    (d) => d.data.length,
  ],
  'images.edits': [
    () =>
      gpt.images.edit({ model: 'pictures', prompt: 'greener', image: [png, other] }),
    (d) => d.usage,
  ],
  'images.variations': [
    () => gpt.images.createVariation({ model: 'dall-e-3', image: png, n: 2 }),
    (d) => d.data.length,
  ],
  'audio.speech': [
    () => gpt.audio.speech.create({ model: 'tts-1', input: 'Grüße', voice: 'coral' }),
    async (d) => (await d.arrayBuffer()).byteLength,
  ],
  'audio.speech streamed': [
    () =>
      gpt.audio.speech.create({
        model: 'gpt-4o-mini-tts', input: '[[sim output=30]] good day', voice: 'coral', stream_format: 'sse',
      }),
    async (d) => JSON.parse((await d.text()).trim().split('\n').at(-1).slice('data: '.length)).usage,
  ],
  'audio.transcriptions': [
    () => gpt.audio.transcriptions.create({ model: 'hearing', file: mp3, prompt: 'about trains' }),
    (d) => d.usage,
  ],
  'audio.transcriptions streamed': [
    () => gpt.audio.transcriptions.create({ model: 'gpt-4o-transcribe', file: mp3, stream: true }),
    async (d) => (await last(d)).usage,
  ],
  'audio.transcriptions by time': [
    () => gpt.audio.transcriptions.create({ model: 'whisper-1', file: mp3 }),
    (d) => d.usage.seconds,
  ],
  'audio.translations': [
    () =>
      gpt.audio.translations.create({ model: 'whisper-1', file: mp3, response_format: 'verbose_json' }),
    (d) => d.duration,
  ],
  files: [
    () => gpt.files.create({ file: lines, purpose: 'batch' }),
    (d) => d.bytes,
  ],
  batches: [() => gpt.batches.list({ limit: 1 }), (d) => d.data.length],
};

for (const [name, [call, read]] of Object.entries(CALLS)) {
  const { data, response } = await call().withResponse();
  const event = response.headers.get('x-tollway-event-id');
  console.log(JSON.stringify({ name, event, shown: await read(data) }));
}
