// Two older SDKs of the reference product, which know one kind of sandbox, and spell policies otherwise.

import assert from 'node:assert/strict';

import { Sandbox } from 'sandbox-sdk-1';
import { Sandbox as Oldest } from 'sandbox-sdk-1.4';

const scope = { token: 'local', teamId: 'local', projectId: 'local' };

const sandbox = await Sandbox.create({ ...scope, runtime: 'node24', timeout: 600_000, networkPolicy: 'deny-all' });
assert.deepEqual([sandbox.status, sandbox.networkPolicy, sandbox.timeout], ['running', 'deny-all', 600_000]);
const redacted = { transform: [{ headers: { 'X-Key': '<redacted>', Authorization: '<redacted>' } }] };
for (const [policy, expected] of [
  ['allow-all', 'allow-all'],
  [{}, {}],
  [{ allow: ['a.test'] }, { allow: ['a.test'] }],
  [{ allow: [], subnets: { allow: ['203.0.113.0/24'] } }, { subnets: { allow: ['203.0.113.0/24'] } }],
  [
    {
      allow: {
        'a.test': [{ transform: [{ headers: { 'X-Key': 'canary' } }, { headers: { Authorization: 'canary' } }] }],
        'b.test': [],
      },
      subnets: { deny: ['203.0.113.0/24'] },
    },
    { allow: { 'a.test': [redacted], 'b.test': [] }, subnets: { deny: ['203.0.113.0/24'] } },
  ],
]) {
  assert.deepEqual(await sandbox.updateNetworkPolicy(policy), expected);
  const read = await Sandbox.get({ ...scope, sandboxId: sandbox.sandboxId });
  assert.deepEqual(read.networkPolicy, expected);
}
const refused = await sandbox.updateNetworkPolicy({ allow: ['a.test:443'] }).catch((error) => error);
assert.equal(refused.response.status, 400);
await sandbox.extendTimeout(60_000);
assert.equal(sandbox.timeout, 660_000);

const oldest = await Oldest.create({ ...scope, runtime: 'node22', networkPolicy: { type: 'no-access' } });
assert.equal(oldest.status, 'running');
const policies = [
  [{ type: 'internet-access' }, 'allow-all'],
  [{ type: 'no-access' }, 'deny-all'],
  [{ type: 'restricted', allowedDomains: ['a.test'] }, { allow: ['a.test'] }],
  [
    { type: 'restricted', allowedCIDRs: ['203.0.113.0/24'], deniedCIDRs: ['203.0.113.8/29'] },
    { subnets: { allow: ['203.0.113.0/24'], deny: ['203.0.113.8/29'] } },
  ],
];
for (const [policy, expected] of policies) {
  await oldest.updateNetworkPolicy(policy);
  // This one does not show policies; the next does.
  const read = await Sandbox.get({ ...scope, sandboxId: oldest.sandboxId });
  assert.deepEqual(read.networkPolicy, expected);
}

for (const Kind of [Sandbox, Oldest]) {
  const { json } = await Kind.list({ ...scope, limit: 10 });
  assert.deepEqual(json.sandboxes.map((one) => one.id).sort(), [oldest.sandboxId, sandbox.sandboxId].sort());
  assert.deepEqual([json.pagination.count, json.pagination.next], [2, null]);
}
const { json: later } = await Sandbox.list({ ...scope, since: new Date(Date.now() + 60_000) });
assert.deepEqual(later.sandboxes, []);

await sandbox.stop({ blocking: true });
await oldest.stop();
const read = await Sandbox.get({ ...scope, sandboxId: sandbox.sandboxId });
assert.deepEqual([read.status, read.networkTransfer], ['stopped', { ingress: 0, egress: 0 }]);
const gone = await sandbox.updateNetworkPolicy('deny-all').catch((error) => error);
assert.equal(gone.response.status, 410);
console.log('done');
