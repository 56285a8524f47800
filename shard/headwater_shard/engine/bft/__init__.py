"""The parts of the consensus machine: leaders, messages, votes, signatures, checks, catching up."""
