# The package: pkgs.callPackage ./package.nix { src = …; }, where src is the work tree.
{
  lib,
  rustPlatform,
  python3,
  src ? ../..,
}:

let
  workspace = (builtins.fromTOML (builtins.readFile (src + "/Cargo.toml"))).workspace;
in
rustPlatform.buildRustPackage {
  pname = "hyperv-agent";
  inherit (workspace.package) version;
  inherit src;

  nativeBuildInputs = [ python3 ];
  cargoLock.lockFile = src + "/Cargo.lock";
  cargoBuildFlags = [ "-p" "hyperv-agent" ];
  postBuild = ''
    python3 packaging/sbom "$(echo target/*/release)/sbom" --offline
  '';
  # The other tests need a machine of their own.
  cargoTestFlags = [ "-p" "hyperv-agent" "--lib" ];

  # The store has neither a configuration nor state: the module makes them.
  installPhase = ''
    runHook preInstall
    BINARY=$(echo target/*/release/hyperv-agent) PREFIX=$out SBINDIR=$out/bin \
      SYSCONFDIR=$out/etc STATEDIR= STOCK= sh packaging/install
    runHook postInstall
  '';

  meta = {
    description = "Guest agent for Linux on Hyper-V";
    license = with lib.licenses; [ mit asl20 ];
    platforms = [ "x86_64-linux" "aarch64-linux" ];
    mainProgram = "hyperv-agent";
  };
}
