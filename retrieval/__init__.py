"""Pictures and learning: photos, models, embedding, queries and their judging. Never a FAISS object."""
