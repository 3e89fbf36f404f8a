"""The server side of Drydock: accept events, fold, decide, publish jobs, replay."""
