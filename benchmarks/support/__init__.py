"""What every benchmark needs: the machine and its limits, the peer, a served model, and one way of reporting."""
