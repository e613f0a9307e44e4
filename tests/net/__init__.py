"""Tests of `collector_trio.net`: against real sockets on the loopback interface, and scripted peers that misbehave."""
