// An OPC UA server that is not our own library, for the tests of ingest/opcua.
//
//   node server.js --port 0 --pki DIR [--counters 20] [--expired] [--variables A,B]
//
// It offers None, and Basic256Sha256, Aes128_Sha256_RsaOaep and
// Aes256_Sha256_RsaPss with Sign and SignAndEncrypt; anonymous, operator/secret
// and any user certificate in DIR/user/trusted/certs. When it is up it prints
// READY {"port":..}. --variables names further counters, in a folder of their own. Commands come as lines on stdin and are answered in order:
//
//   publish N   N rounds of new values; for each value TRUTH {...}, then DONE
//   quit        ends the server
"use strict";
const {
  OPCUAServer, OPCUACertificateManager, SecurityPolicy, MessageSecurityMode, DataType, StatusCodes, Variant, VariantArrayType, coerceLocalizedText,
  nodesets,
} = require("node-opcua");
const path = require("path");
const readline = require("readline");
const { parseArgs } = require("util");

const { values: args } = parseArgs({ options: {
  port: { type: "string", default: "0" }, pki: { type: "string" }, counters: { type: "string", default: "20" }, expired: { type: "boolean", default: false },
  variables: { type: "string", default: "" },
} });

async function main() {
  const serverCertificateManager = new OPCUACertificateManager({ automaticallyAcceptUnknownCertificate: true, rootFolder: path.join(args.pki, "server") });
  const userCertificateManager = new OPCUACertificateManager({ automaticallyAcceptUnknownCertificate: false, rootFolder: path.join(args.pki, "user") });
  await serverCertificateManager.initialize();
  await userCertificateManager.initialize();
  const options = {
    host: "127.0.0.1", hostname: "localhost", port: Number(args.port), resourcePath: "/UA", nodeset_filename: [nodesets.standard],
    buildInfo: { productName: "Penstock test peer" }, serverInfo: { applicationUri: "urn:localhost:penstock-peer" },
    securityPolicies: [SecurityPolicy.None, SecurityPolicy.Basic256Sha256, SecurityPolicy.Aes128_Sha256_RsaOaep, SecurityPolicy.Aes256_Sha256_RsaPss],
    securityModes: [MessageSecurityMode.None, MessageSecurityMode.Sign, MessageSecurityMode.SignAndEncrypt],
    allowAnonymous: true, serverCertificateManager, userCertificateManager,
    userManager: { isValidUser: (name, password) => name === "operator" && password === "secret" },
    serverCapabilities: { operationLimits: { maxNodesPerBrowse: 10, maxNodesPerRead: 50, maxMonitoredItemsPerCall: 7 }, maxBrowseContinuationPoints: 3,
      minSupportedSampleRate: 0 },
  };
  if (args.expired) {
    const certificateFile = path.join(args.pki, "expired.pem");
    await serverCertificateManager.createSelfSignedCertificate({
      applicationUri: options.serverInfo.applicationUri, subject: "/CN=expired", dns: ["localhost"], outputFile: certificateFile,
      startDate: new Date(Date.now() - 10 * 86400e3), validity: 5,
    });
    Object.assign(options, { certificateFile, privateKeyFile: serverCertificateManager.privateKey });
  }
  const server = new OPCUAServer(options);
  await server.initialize();

  const space = server.engine.addressSpace.getOwnNamespace();
  const line = space.addFolder("ObjectsFolder", { browseName: "Line1" });
  const add = (parent, name, dataType, value, extra = {}) => {
    const v = space.addVariable({ componentOf: parent, browseName: name, nodeId: "s=" + name, dataType, minimumSamplingInterval: 0, ...extra });
    v.setValueFromSource(value, StatusCodes.Good, new Date());
    return v;
  };
  const counters = [];
  for (let i = 0; i < Number(args.counters); i++) {
    counters.push(add(line, `Counter${i}`, "Double", { dataType: DataType.Double, value: 0 }));
  }
  if (args.variables) {
    const more = space.addFolder("ObjectsFolder", { browseName: "More" });
    args.variables.split(",").forEach((name) => counters.push(add(more, name, "Double", { dataType: DataType.Double, value: 0 })));
  }
  const types = space.addFolder(line, { browseName: "Types" });
  const scalars = {
    Boolean: true, SByte: -8, Byte: 200, Int16: -1600, UInt16: 60000, Int32: -320000, UInt32: 4000000000, Float: 1.5, Double: -2.25,
    String: "Grüße", DateTime: new Date(Date.UTC(2024, 4, 1, 10)), LocalizedText: coerceLocalizedText("läuft"), StatusCode: StatusCodes.BadSensorFailure,
  };
  for (const [t, value] of Object.entries(scalars)) {
    add(types, "A" + t, t, { dataType: DataType[t], value });
  }
  add(types, "AInt64", "Int64", { dataType: DataType.Int64, arrayType: VariantArrayType.Scalar, value: [0xffffffff, 0xffffffff] }); // -1
  add(types, "AUInt64", "UInt64", { dataType: DataType.UInt64, arrayType: VariantArrayType.Scalar, value: [1, 0] }); // 2^32
  add(types, "Array", "Double", { dataType: DataType.Double, arrayType: VariantArrayType.Array, value: new Float64Array([1, 2, 3]) }, { valueRank: 1 });
  add(types, "Strings", "String", { dataType: DataType.String, arrayType: VariantArrayType.Array, value: ["x", "y"] }, { valueRank: 1 });
  add(types, "Long", "Int32", { dataType: DataType.Int32, arrayType: VariantArrayType.Array, value: new Int32Array(100) }, { valueRank: 1 });
  add(types, "Bytes", "ByteString", { dataType: DataType.ByteString, value: Buffer.from("abc") });
  const bad = add(types, "Bad", "Double", { dataType: DataType.Double, value: 1 });
  bad.setValueFromSource(new Variant({ dataType: DataType.Null }), StatusCodes.BadSensorFailure, new Date());

  await server.start();
  console.log("READY " + JSON.stringify({ port: server.endpoints[0].port }));

  let round = 0;
  const publish = (rounds) => {
    for (let r = 0; r < rounds; r++) {
      round++;
      const time = new Date(Date.now() + r); // one time for each round
      counters.forEach((v, i) => {
        const value = round * 1000 + i + 0.5;
        const status = round % 10 === 0 && i === 0 ? StatusCodes.UncertainLastUsableValue : StatusCodes.Good;
        v.setValueFromSource({ dataType: DataType.Double, value }, status, time);
        console.log("TRUTH " + JSON.stringify({ tag: v.browseName.name, time: time.getTime(), value, quality: status.value }));
      });
    }
    console.log("DONE");
  };
  readline.createInterface({ input: process.stdin }).on("line", async (command) => {
    const [word, n] = command.trim().split(/\s+/);
    if (word === "publish") {
      publish(Number(n));
    } else if (word === "quit") {
      await server.shutdown(0);
      process.exit(0);
    }
  }).on("close", () => process.exit(0));
}

main().catch((err) => { console.error(err); process.exit(1); });
