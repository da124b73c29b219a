"""The training stages and the loop they share."""
