// Reads what pack_columns of retinanet/figures/columns.py wrote: [uint32 header length][JSON, padded
// to 4][columns].

const TYPES = { f4: Float32Array, i4: Int32Array, u2: Uint16Array, u1: Uint8Array };

function unpackColumns(bytes) {
  const block = bytes.slice().buffer; // a copy starts at an aligned offset
  const length = new DataView(block).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(block, 4, length)));
  let at = 4 + Math.ceil(length / 4) * 4;
  const columns = {};
  for (const [name, type, count] of header.columns) {
    columns[name] = new TYPES[type](block, at, count);
    at += Math.ceil(columns[name].byteLength / 4) * 4;
  }
  return { ...header, columns };
}
