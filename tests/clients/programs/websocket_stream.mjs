// Speaks with the service over a stream of HTTP/2 (RFC 8441), beside a request, and tells what came of it.
import { connect } from 'node:http2'

const client = connect('https://socket.rig')
const settings = await new Promise((resolve) => client.once('remoteSettings', resolve))
console.log('offered', settings.enableConnectProtocol)

// A frame of the client's; its mask is zero.
const frame = (opcode, payload) =>
  Buffer.concat([Buffer.from([0x80 | opcode, 0x80 | payload.length, 0, 0, 0, 0]), payload])

async function open(path) {
  const stream = client.request({
    ':method': 'CONNECT', ':protocol': 'websocket', ':scheme': 'https', ':authority': 'socket.rig', ':path': path,
    'sec-websocket-version': '13', 'sec-websocket-protocol': 'rig',
  })
  const head = await new Promise((resolve, reject) => stream.once('response', resolve).once('error', reject))
  return { stream, head }
}

const { stream, head } = await open('/chat')
console.log('opened', head[':status'], head['sec-websocket-protocol'])
const frames = stream[Symbol.asyncIterator]()
stream.write(frame(1, Buffer.from('text')))
console.log('text', (await frames.next()).value.subarray(2).toString())
stream.write(frame(1, Buffer.from('bye')))
const close = (await frames.next()).value
console.log('closed', close.readUInt16BE(2), close.subarray(4).toString())
stream.end(frame(8, close.subarray(2)))
console.log('ended', (await frames.next()).done)
console.log('denied', (await open('/denied')).head[':status'])
client.destroy()
