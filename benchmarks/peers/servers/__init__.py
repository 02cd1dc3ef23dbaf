"""One small file a server. All but `ours` run in environments of their own, without `service` and its packages.

They are told by the environment: PEER_PORT, PEER_ENGINE (an OpenVINO file; empty: a network that computes nothing),
PEER_THREADS, PEER_FRAMES (`all` or `centre`) and PEER_BATCHING (1: batches as the server's documents advise).
"""
