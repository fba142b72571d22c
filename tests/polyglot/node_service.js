// The second of four services, in JavaScript for Node: calls the next one and signs the answer.
//
//   node node_service.js PORT [NEXT_URL]
//
// All that it does for tracing is to send on the fields of the request that speak of the trace.
'use strict';

const http = require('node:http');

const NAME = 'node';
const CARRIED = ['x-b3-', 'b3', 'traceparent', 'tracestate', 'l5d-ctx-', 'l5d-reqid'];
const [port, next] = process.argv.slice(2);

const isCarried = (name) =>
  CARRIED.some((one) => name === one || (one.endsWith('-') && name.startsWith(one)));

const ofTheTrace = (fields) =>
  Object.fromEntries(Object.entries(fields).filter(([name]) => isCarried(name)));

// Status and text of the next hop.
function call(path, headers) {
  return new Promise((resolve, reject) => {
    const request = http.get(next + path, { headers, timeout: 10_000 }, (answer) => {
      let text = '';
      answer.setEncoding('utf8');
      answer.on('data', (piece) => { text += piece; });
      answer.on('end', () => resolve([answer.statusCode, text]));
      answer.on('error', reject);
    });
    request.on('timeout', () => request.destroy(new Error('no answer within 10 s')));
    request.on('error', reject);
  });
}

async function serve(request, response) {
  let status = 200;
  let text = NAME;
  if (next) {
    try {
      const [code, theirs] = await call(request.url, ofTheTrace(request.headers));
      if (code === 200) text = `${NAME} > ${theirs}`;
      else [status, text] = [502, `${NAME}: ${code}: ${theirs}`];
    } catch (error) {
      [status, text] = [502, `${NAME}: ${error.message}`];
    }
  }
  const length = Buffer.byteLength(text);
  response.writeHead(status, { 'Content-Type': 'text/plain', 'Content-Length': length });
  response.end(text);
}

const server = http.createServer(serve);
server.listen(Number(port), '127.0.0.1', () => console.log('listening', server.address().port));
