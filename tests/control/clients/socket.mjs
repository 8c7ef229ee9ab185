// Preloaded into the reference product's clients: what they ask of their service goes to the daemon's Unix socket
// ($EXEAT_SOCKET), and nothing goes anywhere else. Each request is noted in $EXEAT_REQUESTS, if that is set.

import { appendFileSync } from 'node:fs';
import { request } from 'node:http';

const SERVICE = new Set(['vercel.com', 'api.vercel.com', 'exeat.invalid']);

globalThis.fetch = async (input, init = {}) => {
  const url = new URL(typeof input === 'object' && 'url' in input ? input.url : input);
  if (!SERVICE.has(url.hostname)) {
    throw new TypeError(`fetch failed: ${url.hostname} is not there`);
  }
  const method = init.method ?? 'GET';
  const { status, headers, body } = await ask(url.pathname + url.search, method, init);
  if (process.env.EXEAT_REQUESTS) {
    appendFileSync(process.env.EXEAT_REQUESTS, `${method} ${url.pathname} ${status}\n`);
  }
  const response = new Response(body, { status, headers });
  Object.defineProperty(response, 'url', { value: url.href });
  return response;
};

function ask(path, method, init) {
  const options = { socketPath: process.env.EXEAT_SOCKET, path, method, headers: plain(init.headers) };
  return new Promise((resolve, reject) => {
    const asked = request(options, (answer) => {
      const chunks = [];
      answer.on('data', (chunk) => chunks.push(chunk));
      answer.on('error', reject);
      answer.on('end', () =>
        resolve({ status: answer.statusCode, headers: plain(answer.headers), body: Buffer.concat(chunks) }),
      );
    });
    asked.on('error', reject);
    asked.end(init.body ?? undefined);
  });
}

function plain(headers) {
  return Object.fromEntries(new Headers(headers ?? {}));
}
