"""What proves the speed: talks HTTP to a running service, or builds engines. Nothing imports it."""
