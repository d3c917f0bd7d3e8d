// What node programs do: parse, format, match, compress, hash, read files. Waits for a byte at "ready" and "done".
const fs = require('fs');
const zlib = require('zlib');
const crypto = require('crypto');

function step(name) {
  fs.writeSync(1, name + '\n');
  fs.readSync(0, Buffer.alloc(1));
}

function work(rounds) {
  const document = JSON.stringify(Array.from({ length: 300 }, (_, n) => ({ n, text: 'text'.repeat(50) })));
  for (let round = 0; round < rounds; round++) {
    JSON.parse(document).map((entry) => entry.text.replace(/t(e)xt/g, '$1' + round)).sort();
    zlib.inflateSync(zlib.deflateSync(document));
    crypto.createHash('sha256').update(document).digest('hex');
    fs.readFileSync(__filename);
    new Map(Object.entries(JSON.parse(document))).forEach((value) => Buffer.from(value.text));
  }
}

step('ready');
work(200);
step('done');
