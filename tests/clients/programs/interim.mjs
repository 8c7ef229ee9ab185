// A service of HTTP/2 alone that says when a body may come, and gives hints. Arguments: certificate, key, address, a
// file for what it hears, which is there when it serves.
import { appendFileSync, readFileSync } from 'node:fs'
import { createSecureServer } from 'node:http2'

const [certificate, key, address, log] = process.argv.slice(2)
const note = (what) => appendFileSync(log, what + '\n')

async function answer(stream, headers) {
  const waits = headers.expect === '100-continue'
  if (headers[':path'] === '/refuse') {
    // Not a byte of the body may come.
    let length = 0
    stream.on('data', (chunk) => { length += chunk.length })
    stream.on('close', () => note(`refused ${length} ${waits}`))
    stream.respond({ ':status': 417 }, { endStream: true })
    return
  }
  stream.additionalHeaders({ ':status': 103, link: '</style.css>; rel=preload', 'x-echo': headers['x-rig'] })
  if (waits) stream.additionalHeaders({ ':status': 100 })
  let length = 0
  for await (const chunk of stream) length += chunk.length
  stream.respond({ ':status': 200 })
  stream.end(`${length} bytes, ${waits ? 'waited' : 'at once'}\n`)
}

const server = createSecureServer({ cert: readFileSync(certificate), key: readFileSync(key) })
server.on('stream', (stream, headers) => {
  stream.on('error', (error) => note('error ' + error.code))
  answer(stream, headers).catch((error) => note('broken ' + error.code))
})
server.listen(443, address, () => note('serves'))
