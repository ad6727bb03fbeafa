"""What people look at: contact sheets and report pages."""
