package wasm

// abiVersion is that of operators/sdk/c/penstock.h.
const abiVersion = 1
