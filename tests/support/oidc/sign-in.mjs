// People sign in to the admin API of a running engine at a real OpenID Connect provider (npm: oidc-provider): `make oidc-check`.
// A small browser follows the redirects with its cookies and fills in the provider's forms; everything runs on loopback.
import { spawn } from 'node:child_process';
import { generateKeyPairSync } from 'node:crypto';
import { mkdtempSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import Provider from 'oidc-provider';

const crossdock = process.argv[2];
const freePort = () => new Promise((done) => {
  const server = createServer().listen(0, '127.0.0.1', () => {
    const { port } = server.address();
    server.close(() => done(port));
  });
});
const failures = [];
const expect = (what, found, wanted) => {
  const good = JSON.stringify(found) === JSON.stringify(wanted);
  console.log(`${good ? 'good' : 'BAD '}  ${what}: ${JSON.stringify(found)}`);
  if (!good) failures.push(what);
};

const [at, admin, listen] = [await freePort(), await freePort(), await freePort()];
const [issuer, base] = [`http://127.0.0.1:${at}`, `http://127.0.0.1:${admin}`];
const secret = 'a secret/of the client+';
const key = generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey.export({ format: 'jwk' });
const people = { anna: ['staff', 'ops'], otto: ['staff'] };
const oidc = new Provider(issuer, {
  jwks: { keys: [{ ...key, use: 'sig', alg: 'RS256', kid: 'rsa-1' }] },
  clients: [{ client_id: 'crossdock', client_secret: secret, grant_types: ['authorization_code'], response_types: ['code'],
    redirect_uris: [`${base}/api/v1/session/callback`] }],
  pkce: { required: () => true },
  scopes: ['openid', 'email', 'groups'],
  claims: { openid: ['sub'], email: ['email', 'email_verified'], groups: ['groups'] },
  conformIdTokenClaims: false,
  findAccount: (_, id) => ({
    accountId: id,
    claims: () => ({ sub: id, email: `${id}@example.com`, email_verified: true, groups: people[id] ?? [] }),
  }),
});
const server = await new Promise((done) => { const s = oidc.listen(at, '127.0.0.1', () => done(s)); });

/// A browser: cookies by host, redirects one by one.
const browser = () => {
  const jar = {};
  const ask = async (url, options = {}) => {
    const { host } = new URL(url);
    jar[host] ??= {};
    const cookie = Object.entries(jar[host]).map(([name, value]) => `${name}=${value}`).join('; ');
    const headers = { ...options.headers, ...(cookie ? { cookie } : {}) };
    const answer = await fetch(url, { ...options, headers, redirect: 'manual' });
    for (const line of answer.headers.getSetCookie()) {
      const [pair] = line.split(';');
      const [name, value] = [pair.slice(0, pair.indexOf('=')), pair.slice(pair.indexOf('=') + 1)];
      if (value === '' || /max-age=0/i.test(line)) delete jar[host][name]; else jar[host][name] = value;
    }
    return answer;
  };
  const signIn = async (name) => {
    let answer = await ask(`${base}/api/v1/session/begin?to=/api/v1/session`);
    let url = base;
    for (let step = 0; step < 20; step += 1) {
      const to = answer.headers.get('location');
      if (to) {
        url = new URL(to, url).href;
        answer = await ask(url);
        continue;
      }
      if (!url.startsWith(issuer) || !url.includes('/interaction/')) return answer;
      const prompt = (await answer.text()).includes('name="login"') ? { prompt: 'login', login: name, password: 'x' } : { prompt: 'consent' };
      answer = await ask(url, { method: 'POST', body: new URLSearchParams(prompt) });
    }
    throw new Error('the sign-in does not end');
  };
  return { ask, signIn };
};

const root = mkdtempSync(join(tmpdir(), 'crossdock-sign-in-'));
let engine;
try {
  for (const name of ['flows', 'schemas']) mkdirSync(join(root, name), { recursive: true });
  writeFileSync(join(root, 'crossdock.yaml'), `listen: "127.0.0.1:${listen}"
admin:
  listen: "127.0.0.1:${admin}"
  sign_in:
    issuer: "${issuer}"
    client_id: crossdock
    client_secret: "\${env:OIDC_SECRET}"
    scopes: [email, groups]
    name: email
    roles: { map: { ops: operator } }
`);
  writeFileSync(join(root, 'flows/orders.yaml'), `flow: orders
source: { webhook: { path: /orders, verify: none } }
sinks: { out: { discard: {} } }
`);
  const env = { ...process.env, OIDC_SECRET: secret };
  engine = spawn(crossdock, ['run', '--project', root], { stdio: ['ignore', 'ignore', 'inherit'], env });
  for (let tries = 0; ; tries += 1) {
    if (await fetch(`${base}/healthz/live`).then((answer) => answer.ok, () => false)) break;
    if (tries > 600) throw new Error('the engine is not ready');
    await new Promise((done) => setTimeout(done, 50));
  }
  const anna = browser();
  const landed = await anna.signIn('anna');
  const who = await landed.json();
  expect('anna signs in', [landed.status, who.name, who.kind, who.roles], [200, 'anna@example.com', 'identity', ['operator']]);
  const again = await anna.ask(`${base}/api/v1/status`);
  expect('her session counts', again.status, 200);
  const foreign = await anna.ask(`${base}/api/v1/session:end`, { method: 'POST' });
  expect('a page from elsewhere cannot act', foreign.status, 403);
  const out = await anna.ask(`${base}/api/v1/session:end`, { method: 'POST', headers: { 'crossdock-request': '1' } });
  expect('she signs out', out.status, 200);
  expect('nobody is signed in', (await anna.ask(`${base}/api/v1/session`)).status, 401);
  const refused = await browser().signIn('otto');
  expect('otto has no role', [refused.status, (await refused.json()).code], [403, 'no_role']);
} finally {
  if (engine) engine.kill('SIGKILL');
  server.close();
  server.closeAllConnections();
  rmSync(root, { recursive: true, force: true });
}
process.exit(failures.length === 0 ? 0 : 1);
