"""Where frames meet prompts: preprocessing, the streaming session, Mask Memory, query selection."""
