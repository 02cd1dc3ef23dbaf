"""The service beside other inference servers: same bodies, same generator, same network, turns taken in one run."""
