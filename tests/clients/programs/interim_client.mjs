// Asks over HTTP/2 for what the service of `interim.mjs` says before its answer, and sends what it may.
import { connect } from 'node:http2'
import { once } from 'node:events'

const session = connect('https://interim.rig')
for (const path of ['/grant', '/refuse']) {
  const stream = session.request({ ':method': 'POST', ':path': path, expect: '100-continue' })
  stream.on('headers', (said) => {
    if (said[':status'] !== 100) console.log(path, said[':status'], said.link, said['x-echo'])
  })
  stream.on('continue', () => {
    console.log(path, 'continue')
    stream.end(Buffer.alloc(2_000_000, 7))
  })
  const [answer] = await once(stream, 'response')
  let body = ''
  for await (const chunk of stream.setEncoding('utf8')) body += chunk
  console.log(path, answer[':status'], body.trim())
  stream.close()
}
session.close()
