package mqtt

const benchChild = "PENSTOCK_MQTT_BENCH_CHILD"

func runBenchChild() int { return 0 }
