// Package plant is a simulated plant: pumps with their motors, compressors
// and heat exchangers in three halls, with machines that wear, leak, foul and
// cavitate and sensors that stick, drift, spike and fail.
//
// It is a pure function of its seed and the number of the step: two plants
// with the same seed give the same values, whenever they start. Every fault is
// in the ground truth, so that detections can be judged.
//
// The physics is that of textbooks (affinity laws, effectiveness-NTU,
// polytropic compression, first-order thermal lag), with one liberty: thermal
// time constants and the growth of damage are shortened, days to seconds, so
// that a demo of half a minute shows them.
package plant
