// Tokens of a real OpenID Connect provider (npm: oidc-provider) at an API of a running engine: `make oidc-check`.
// Needs Node and, the first time, the npm registry; everything runs on loopback.
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
const key = (kind, options, alg, kid) => ({
  ...generateKeyPairSync(kind, options).privateKey.export({ format: 'jwk' }), use: 'sig', alg, kid,
});
const audience = 'urn:crossdock';

const provider = async (port, keys, alg) => {
  const issuer = `http://127.0.0.1:${port}`;
  const oidc = new Provider(issuer, {
    jwks: { keys },
    clients: [{ client_id: 'portal-app', client_secret: 'a-secret-of-the-client', grant_types: ['client_credentials'],
      redirect_uris: [], response_types: [] }],
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (_, resource) => ({
          scope: 'orders', audience: resource, accessTokenFormat: 'jwt', accessTokenTTL: 60, jwt: { sign: { alg } },
        }),
      },
    },
  });
  const server = await new Promise((done) => { const s = oidc.listen(port, '127.0.0.1', () => done(s)); });
  const token = async (resource) => {
    const answer = await fetch(`${issuer}/token`, {
      method: 'POST',
      headers: {
        'content-type': 'application/x-www-form-urlencoded',
        authorization: `Basic ${Buffer.from('portal-app:a-secret-of-the-client').toString('base64')}`,
      },
      body: new URLSearchParams({ grant_type: 'client_credentials', scope: 'orders', resource }),
    });
    const body = await answer.json();
    if (!body.access_token) throw new Error(JSON.stringify(body));
    return body.access_token;
  };
  return { issuer, server, token };
};

const failures = [];
const expect = (what, found, wanted) => {
  console.log(`${found === wanted ? 'good' : 'BAD '}  ${what}: ${found}`);
  if (found !== wanted) failures.push(what);
};

const rsa = key('rsa', { modulusLength: 2048 }, 'RS256', 'rsa-1');
const ec = key('ec', { namedCurve: 'P-256' }, 'ES256', 'ec-1');
const ed = key('ed25519', {}, 'EdDSA', 'ed-1');
const folder = mkdtempSync(join(tmpdir(), 'crossdock-oidc-'));
let engine;
const servers = [];
try {
  for (const [alg, keys] of [['RS256', [rsa]], ['ES256', [ec, rsa]], ['EdDSA', [ed, rsa]]]) {
    const [at, listen] = [await freePort(), await freePort()];
    const oidc = await provider(at, keys, alg);
    servers.push(oidc.server);
    const root = join(folder, alg);
    for (const name of ['flows', 'schemas']) mkdirSync(join(root, name), { recursive: true });
    writeFileSync(join(root, 'crossdock.yaml'), `listen: "127.0.0.1:${listen}"
apis:
  issuers: { login: { issuer: "${oidc.issuer}", audience: "${audience}" } }
  clients: { portal: { token: { issuer: login, client: portal-app } } }
`);
    writeFileSync(join(root, 'schemas/any.json'), '{}');
    writeFileSync(join(root, 'flows/orders.yaml'), `flow: orders
source: { api: { path: /orders, version: v1 } }
accepts: any
sinks: { out: { discard: {} } }
`);
    engine = spawn(crossdock, ['run', '--project', root], { stdio: ['ignore', 'ignore', 'inherit'] });
    const base = `http://127.0.0.1:${listen}`;
    for (let tries = 0; ; tries += 1) {
      const ready = await fetch(`${base}/healthz/ready`).then((answer) => answer.ok, () => false);
      if (ready) break;
      if (tries > 300) throw new Error('the engine is not ready');
      await new Promise((done) => setTimeout(done, 50));
    }
    const call = async (token) => (await fetch(`${base}/v1/orders`, {
      method: 'POST', headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' }, body: '{}',
    })).status;
    const good = await oidc.token(audience);
    expect(`${alg}: a token for this audience`, await call(good), 202);
    expect(`${alg}: a token for another audience`, await call(await oidc.token('urn:another')), 401);
    const [head, claims, signature] = good.split('.');
    const other = Buffer.from(JSON.stringify({ ...JSON.parse(Buffer.from(claims, 'base64url')), client_id: 'x' }));
    expect(`${alg}: a token that was changed`, await call([head, other.toString('base64url'), signature].join('.')), 401);
    const none = Buffer.from('{"alg":"none"}').toString('base64url');
    expect(`${alg}: a token without a signature`, await call(`${none}.${claims}.`), 401);
    engine.kill('SIGTERM');
    await new Promise((done) => engine.once('exit', done));
    engine = undefined;
  }
} finally {
  if (engine) engine.kill('SIGKILL');
  for (const server of servers) server.close();
  rmSync(folder, { recursive: true, force: true });
}
process.exit(failures.length === 0 ? 0 : 1);
