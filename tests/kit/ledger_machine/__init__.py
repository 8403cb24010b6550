"""The state machine that plays processes, faults and a store against a model of the counting
function."""
