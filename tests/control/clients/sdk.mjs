// The reference product's SDK as it is published, from creating a sandbox to deleting it.

import assert from 'node:assert/strict';
import { pathToFileURL } from 'node:url';

import { APIError, Sandbox } from 'sandbox-sdk';

const scope = { token: 'local', teamId: 'local', projectId: 'local' };

const sandbox = await Sandbox.create({
  ...scope,
  name: 'sdk',
  ports: [3000],
  timeout: 600_000,
  resources: { vcpus: 2 },
  env: { TOKEN: 'canary' },
  tags: { kind: 'test', owner: 'me' },
  source: { type: 'git', url: 'https://git.test/x', username: 'me', password: 'canary' },
  mounts: { '/data': { drive: 'disk', mode: 'read-only' } },
  snapshotExpiration: 0,
  keepLastSnapshots: { count: 2, expiration: 1000, deleteEvicted: true },
  networkId: 'net',
  persistent: false,
  networkPolicy: 'deny-all',
});
assert.equal(sandbox.name, 'sdk');
assert.equal(sandbox.status, 'running');
assert.equal(sandbox.networkPolicy, 'deny-all');
assert.equal(sandbox.timeout, 600_000);
assert.deepEqual([sandbox.vcpus, sandbox.memory], [2, 4096]);
assert.deepEqual(sandbox.tags, { kind: 'test', owner: 'me' });
assert.deepEqual(sandbox.mounts, { '/data': { drive: 'disk', mode: 'snapshot' } });
assert.deepEqual(sandbox.keepLastSnapshots, { count: 2, expiration: 1000, deleteEvicted: true });
assert.deepEqual([sandbox.networkId, sandbox.persistent, sandbox.snapshotExpiration], ['net', false, 0]);
assert.deepEqual(sandbox.routes, []);
assert.ok(sandbox.interactivePort > 0);

const redacted = (...names) => Object.fromEntries(names.map((name) => [name, '<redacted>']));
const spellings = [
  ['allow-all', 'allow-all'],
  ['deny-all', 'deny-all'],
  [{ mode: 'allow-all' }, 'allow-all'],
  [{}, {}],
  [{ allow: ['a.test', '*.b.test', 'www.*.com'] }, { allow: ['a.test', '*.b.test', 'www.*.com'] }],
  [{ allow: { 'a.test': [], '*': [] } }, { allow: ['a.test', '*'] }],
  [
    { allow: ['a.test'], subnets: { allow: ['203.0.113.0/24'], deny: ['203.0.113.8/29'] } },
    { allow: ['a.test'], subnets: { allow: ['203.0.113.0/24'], deny: ['203.0.113.8/29'] } },
  ],
  [{ subnets: { deny: ['203.0.113.8/29'] } }, { subnets: { deny: ['203.0.113.8/29'] } }],
  [
    {
      allow: {
        'a.test': [
          {
            match: {
              method: ['GET', 'HEAD'],
              path: { startsWith: '/v1/' },
              queryString: [{ key: { exact: 'q' }, value: { regex: '^x+$' } }],
              headers: [{ key: { exact: 'x-kind' } }],
            },
            transform: [{ headers: { Authorization: 'canary' } }, { headers: { 'X-Key': 'canary' } }],
          },
          { match: { path: { exact: '/no' } }, response: { statusCode: 403, contentType: 'text/plain', body: 'no' } },
        ],
        'b.test': [{ transform: [{ headers: { Authorization: 'canary' } }] }],
      },
    },
    {
      allow: {
        'a.test': [
          {
            match: {
              method: ['GET', 'HEAD'],
              path: { startsWith: '/v1/' },
              queryString: [{ key: { exact: 'q' }, value: { regex: '^x+$' } }],
              headers: [{ key: { exact: 'x-kind' } }],
            },
            transform: [{ headers: redacted('Authorization', 'X-Key') }],
          },
        ],
        'b.test': [{ transform: [{ headers: redacted('Authorization') }] }],
      },
    },
  ],
  [
    {
      mode: 'custom',
      allowedDomains: ['a.test'],
      allowedCIDRs: ['203.0.113.0/24'],
      deniedCIDRs: ['203.0.113.8/29'],
      injectionRules: [{ domain: 'a.test', headers: { 'X-Key': 'canary' } }],
    },
    {
      allow: { 'a.test': [{ transform: [{ headers: redacted('X-Key') }] }] },
      subnets: { allow: ['203.0.113.0/24'], deny: ['203.0.113.8/29'] },
    },
  ],
];
for (const [networkPolicy, expected] of spellings) {
  await sandbox.update({ networkPolicy });
  assert.deepEqual(sandbox.networkPolicy, expected);
  assert.deepEqual(sandbox.currentSession().networkPolicy, expected);
  await sandbox.updateNetworkPolicy('deny-all');
  await sandbox.currentSession().update({ networkPolicy });
  assert.deepEqual(sandbox.currentSession().networkPolicy, expected);
  const copy = await Sandbox.create({ ...scope, networkPolicy });
  assert.deepEqual(copy.networkPolicy, expected);
  const fork = await Sandbox.fork({ ...scope, sourceSandbox: copy.name });
  assert.deepEqual(fork.networkPolicy, expected);
  await fork.delete();
  await copy.delete();
}

for (const [networkPolicy, expected] of [
  [{ subnets: { allow: ['203.0.113.1/24'] } }, /^Status code 400 is not ok: .*203\.0\.113\.0\/24/s],
  [{ allow: ['a.test'], alow: [] }, /^Status code 400 is not ok: .*`alow`/s],
  [{ allow: ['api*.test', 'b.test:443'] }, /^Status code 400 is not ok: .*api\*.*b\.test:443/s],
]) {
  const refused = await sandbox.update({ networkPolicy }).catch((error) => error);
  assert.ok(refused instanceof APIError, String(refused));
  assert.match(refused.message, expected);
  assert.equal(refused.json.error.code, 'invalid_policy');
}

// A longer time also reaches the session that runs.
await sandbox.update({ timeout: 900_000 });
assert.deepEqual([sandbox.timeout, sandbox.currentSession().timeout], [900_000, 900_000]);
await sandbox.extendTimeout(60_000);
assert.equal(sandbox.currentSession().timeout, 960_000);
await sandbox.update({ keepLastSnapshots: null, networkId: null, tags: {}, ports: [], resources: { vcpus: 4 } });
assert.deepEqual([sandbox.keepLastSnapshots, sandbox.networkId, sandbox.tags], [undefined, undefined, {}]);
assert.deepEqual([sandbox.vcpus, sandbox.memory], [4, 8192]);
await sandbox.update({ tags: { kind: 'test' } });

const second = { name: 'sdk-2', networkPolicy: { allow: ['f.test'] } };
const other = await Sandbox.fork({ ...scope, sourceSandbox: 'sdk', ...second });
assert.deepEqual([other.networkPolicy, other.tags], [{ allow: ['f.test'] }, { kind: 'test' }]);
await other.update({ tags: { kind: 'other' } });
const names = async (params) => {
  const listed = await Sandbox.list({ ...scope, ...params });
  return (await listed.toArray()).map((one) => one.name);
};
assert.deepEqual(await names({}), ['sdk-2', 'sdk']);
assert.deepEqual(await names({ limit: 1 }), ['sdk-2', 'sdk']);
assert.deepEqual(await names({ limit: 1, sortBy: 'name', sortOrder: 'asc' }), ['sdk', 'sdk-2']);
assert.deepEqual(await names({ namePrefix: 'sdk-', sortBy: 'name' }), ['sdk-2']);
assert.deepEqual(await names({ tags: { kind: 'test' } }), ['sdk']);

const first = sandbox.currentSession().sessionId;
const stopped = await sandbox.stop();
assert.equal(stopped.status, 'stopped');
assert.deepEqual(sandbox.networkTransfer, { ingress: 0, egress: 0 });
assert.deepEqual([sandbox.totalIngressBytes, sandbox.totalEgressBytes], [0, 0]);
// Stored for the next session; that none runs is no error.
await sandbox.update({ networkPolicy: { allow: ['g.test'] } });
assert.deepEqual((await Sandbox.get({ ...scope, name: 'sdk' })).status, 'stopped');
assert.deepEqual(sandbox.networkPolicy, { allow: ['g.test'] });
const refused = await sandbox.currentSession().update({ networkPolicy: 'deny-all' }).catch((error) => error);
assert.deepEqual([refused.response.status, refused.json.error.code], [410, 'sandbox_stopped']);
// This finds the session stopped, begins another, and tries again.
assert.equal(await sandbox.updateNetworkPolicy('deny-all'), 'deny-all');
assert.notEqual(sandbox.currentSession().sessionId, first);
let resumed = 0;
const again = await Sandbox.get({ ...scope, name: 'sdk', resume: true, onResume: () => (resumed += 1) });
assert.deepEqual([again.status, resumed], ['running', 0]);
await again.stop();
await Sandbox.get({ ...scope, name: 'sdk', resume: true, onResume: () => (resumed += 1) });
assert.equal(resumed, 1);
const sessions = await (await again.listSessions({ limit: 2 })).toArray();
assert.deepEqual(sessions.map((session) => session.status), ['running', 'stopped', 'stopped']);
assert.equal(sessions.at(-1).id, first);

const present = await Sandbox.getOrCreate({ ...scope, name: 'sdk', onCreate: () => assert.fail('it is there') });
assert.equal(present.name, 'sdk');
const taken = await Sandbox.create({ ...scope, name: 'sdk' }).catch((error) => error);
assert.equal(taken.response.status, 409);
const missing = await Sandbox.get({ ...scope, name: 'none' }).catch((error) => error);
assert.deepEqual([missing.response.status, missing.json.error.code], [404, 'not_found']);

// The client beneath, which takes another base URL.
const path = `${process.env.EXEAT_CLIENTS}/node_modules/sandbox-sdk/dist/api-client/api-client.js`;
const { APIClient } = await import(pathToFileURL(path).href);
const client = new APIClient({ ...scope, baseUrl: 'http://exeat.invalid' });
const { json } = await client.getSandbox({ name: 'sdk', projectId: 'local' });
assert.equal(json.sandbox.name, 'sdk');
const { json: session } = await client.getSession({ sessionId: json.session.id });
assert.equal(session.session.id, json.sandbox.currentSessionId);

await again.delete();
await other.delete();
assert.deepEqual(await names({}), []);
console.log('done');
