"""`svkit prepare`: from audio trees to manifests and trial lists, one file a corpus."""
