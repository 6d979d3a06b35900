"""Serves a trained model over HTTP and WebSocket, in the protocols that clients already speak."""
