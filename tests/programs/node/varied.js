// Leads malloc through as many ways of node and its libraries as a few rounds give. argv: how many.
const crypto = require('crypto');
const http = require('http');
const vm = require('vm');
const zlib = require('zlib');

const rounds = Number(process.argv[2]);
const kept = [];
for (let round = 0; round < rounds; round++) {
  kept.push(JSON.parse(JSON.stringify({ list: Array(50).fill(round), text: 'x'.repeat(round) })));
  vm.runInNewContext(`let twice = ${2 * round}; function f${round}() { return twice; } f${round}()`);
  new RegExp(`a${round}(b|c)*d`).test('aaad');
  zlib.gunzipSync(zlib.gzipSync('x'.repeat(1000 + round)));
  crypto.createHash('sha256').update(`x${round}`).digest();
  new Intl.NumberFormat('de').format(round);
  new URL(`http://a/${round}`);
  kept.push(Buffer.alloc(1000 + round));
}
const server = http.createServer((_, response) => response.end('x'.repeat(5000)));
server.listen(0, '127.0.0.1', () => {
  let left = rounds;
  const next = () =>
    http.get({ port: server.address().port }, (response) => {
      response.resume();
      response.on('end', () => (--left > 0 ? next() : server.close()));
    });
  next();
});
