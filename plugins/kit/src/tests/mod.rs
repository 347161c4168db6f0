//! Black-box tests of the client against the scripted sink.
