// A service that speaks HTTP/2 alone, with WebSockets on its streams (RFC 8441), and without them at port 8443.
// Arguments: certificate, key, address, a file for what it hears, which is there when it serves.
import { appendFileSync, readFileSync } from 'node:fs'
import { createSecureServer } from 'node:http2'

const [certificate, key, address, log] = process.argv.slice(2)
const note = (what) => appendFileSync(log, what + '\n')

// A frame of the server's, which has no mask.
function frame(opcode, payload) {
  const length = payload.length < 126 ? Buffer.of(payload.length) : Buffer.alloc(payload.length < 65536 ? 3 : 9)
  if (length.length === 3) { length[0] = 126; length.writeUInt16BE(payload.length, 1) }
  if (length.length === 9) { length[0] = 127; length.writeBigUInt64BE(BigInt(payload.length), 1) }
  return Buffer.concat([Buffer.of(0x80 | opcode), length, payload])
}

// The client's frames, unmasked, as they come.
async function* frames(stream) {
  let held = Buffer.alloc(0)
  for await (const chunk of stream) {
    held = Buffer.concat([held, chunk])
    for (;;) {
      const short = held.length < 2 ? 0 : held[1] & 0x7f
      const head = short === 126 ? 4 : short === 127 ? 10 : 2
      if (held.length < head + 4) break
      const length = short === 126 ? held.readUInt16BE(2) : short === 127 ? Number(held.readBigUInt64BE(2)) : short
      if (held.length < head + 4 + length) break
      const [mask, payload] = [held.subarray(head, head + 4), held.subarray(head + 4, head + 4 + length)]
      yield { opcode: held[0] & 0x0f, payload: payload.map((byte, at) => byte ^ mask[at & 3]) }
      held = held.subarray(head + 4 + length)
    }
  }
}

async function echo(stream, headers) {
  note('asked ' + headers[':method'] + ' ' + headers[':protocol'] + ' ' + headers[':path'])
  note('credential ' + headers['x-rig'])
  note('of HTTP/1 ' + ['connection', 'upgrade', 'sec-websocket-key'].filter((name) => name in headers).join())
  const subprotocol = (headers['sec-websocket-protocol'] ?? '').split(',').map((name) => name.trim()).includes('rig')
  stream.respond({ ':status': 200, ...(subprotocol && { 'sec-websocket-protocol': 'rig' }) })
  const bye = Buffer.concat([Buffer.of(4001 >> 8, 4001 & 0xff), Buffer.from('as you say')])
  for await (const { opcode, payload } of frames(stream)) {
    if (opcode === 8) {
      note('closed ' + payload.readUInt16BE(0))
      stream.end()
    } else if (opcode === 9) {
      stream.write(frame(10, payload))
    } else {
      stream.write(payload.toString() === 'bye' ? frame(8, bye) : frame(opcode, payload))
    }
  }
  note('ended')
}

async function answer(stream, headers) {
  note('credential ' + headers['x-rig'])
  let length = 0
  for await (const chunk of stream) length += chunk.length
  stream.respond({ ':status': 200 })
  stream.end(`${headers[':method']} ${headers[':path']}, ${length} bytes\n`)
}

async function serve(port, enableConnectProtocol) {
  const pair = { cert: readFileSync(certificate), key: readFileSync(key) }
  const server = createSecureServer({ ...pair, settings: { enableConnectProtocol } })
  server.on('stream', (stream, headers) => {
    stream.on('error', (error) => note('error ' + error.code))
    const speak = headers[':method'] === 'CONNECT' ? echo : answer
    speak(stream, headers).catch((error) => note('broken ' + error.code))
  })
  await new Promise((resolve) => server.listen(port, address, resolve))
}

await serve(8443, false)
await serve(443, true)
note('serves')
