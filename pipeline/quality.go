package pipeline

// OPC UA StatusCodes that Penstock itself sets. The two top bits are the
// severity: 00 Good, 01 Uncertain, 10 Bad (OPC UA Part 4, 7.39).
const (
	Good            uint32 = 0x00000000
	Uncertain       uint32 = 0x40000000
	Bad             uint32 = 0x80000000
	BadNoData       uint32 = 0x809B0000
	BadSensor       uint32 = 0x808C0000 // BadSensorFailure
	BadOutOfService uint32 = 0x808D0000
	BadNoComm       uint32 = 0x80310000 // BadNoCommunication
)

// IsGood, IsUncertain and IsBad read the severity of an OPC UA StatusCode.
func IsGood(q uint32) bool      { return q>>30 == 0 }
func IsUncertain(q uint32) bool { return q>>30 == 1 }
func IsBad(q uint32) bool       { return q>>31 == 1 }
